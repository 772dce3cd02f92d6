"""How many ranks work along which axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError


@dataclass(frozen=True)
class Parallel:
    """A pinned division of the work. Axes multiply: ``Parallel(cfg=2, sp=4)`` takes eight ranks.

    Attributes:
        sp: sequence parallelism: tokens, and heads inside attention; weights stay whole.
        tp: tensor parallelism: weights are cut.
        cfg: the two halves of a guided step, or any other batch, on different ranks.
        dp: several samples on different ranks.
    """

    sp: int = 1
    tp: int = 1
    cfg: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidArgumentError(f"Parallel({field.name}={value!r}): expected an integer of at least 1")

    @property
    def num_ranks(self) -> int:
        return math.prod(getattr(self, field.name) for field in fields(self))

    @property
    def mesh(self) -> ir.Mesh:
        """Outermost first: ranks that talk most are neighbours."""
        sizes = (("dp", self.dp), ("cfg", self.cfg), ("sp", self.sp), ("tp", self.tp))
        return ir.Mesh(tuple((name, size) for name, size in sizes if size > 1))
