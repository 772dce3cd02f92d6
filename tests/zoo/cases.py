"""What an entry of the zoo is: a model with a small configuration, its inputs, and how exactly it must agree."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Inputs, ModelCase

EXACT, CAST_INSIDE, HALF_INSIDE, SINGLE = 1e-10, 1e-6, 1e-4, 1e-4
"""Tolerances: in fp64 for a model that stays there, for one that casts a part of itself to fp32 or to bf16; in fp32.

In bf16 a number moves by 1/512 of itself where it was just about to be rounded the other way. Eager moves by 1e-5 when
its norms, which are in fp32, are off by one last bit.
"""


@dataclass(frozen=True)
class Draw:
    """Draws the inputs of one call: seeds differ in every value and agree in shapes."""

    seed: int
    dtype: torch.dtype
    batch: int
    generator: torch.Generator
    heads: int = 8

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def tokens(self, *shape: int) -> Tensor:
        """``randn`` with a batch dim in front."""
        return self.randn(self.batch, *shape)

    def timestep(self) -> Tensor:
        return torch.full((self.batch,), 500 + 37 * self.seed)

    def real_timestep(self) -> Tensor:
        return self.timestep().to(self.dtype)

    def fraction(self) -> Tensor:
        """A timestep between 0 and 1."""
        return torch.full((self.batch,), 0.5 + 0.1 * self.seed, dtype=self.dtype)

    def scalar(self, value: float) -> Tensor:
        return torch.full((self.batch,), value + 0.5 * self.seed, dtype=self.dtype)

    def mask(self, length: int) -> Tensor:
        """Which tokens are real: all but a few at the end, another number for every seed."""
        lengths = torch.tensor([[length - 2 - (self.seed + row) % 3] for row in range(self.batch)])
        return (torch.arange(length)[None] < lengths).long()

    def either_mask(self, length: int) -> Tensor:
        """One of two, for models that read it into Python and are captured anew for each."""
        return (torch.arange(length)[None] < length - 3 - self.seed % 2).long().expand(self.batch, -1)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, (self.batch, *shape), generator=self.generator)

    def ids(self, rows: int, columns: int) -> Tensor:
        """Positions of an image's tokens, ``(rows · columns, 3)``."""
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        return torch.cat([torch.zeros(rows * columns, 1), grid.reshape(-1, 2) + self.seed], dim=1).to(self.dtype)


@dataclass(frozen=True, eq=False)
class ZooCase:
    """One class of the zoo.

    Attributes:
        name: of the class, without what all such names have in common.
        at: the model and its inputs with that many heads.
        casts: what the model computes in fp32, or nothing.
        dtype: fp64, but for models that do not run in it.
        odd_heads: another number of heads, which some of the meshes do not divide.
        batched: whether a call can have a batch of two.
        half: whether some of that is in bf16.
        flex: attention is a higher-order op, in which torch's FLOP counter cannot look: the captured program on one
            rank is counted instead of eager, and its attention is not measured.
    """

    name: str
    at: Callable[[int], ModelCase]
    casts: str = ""
    dtype: torch.dtype = torch.float64
    odd_heads: int = 10
    batched: bool = True
    half: bool = False
    flex: bool = False

    @property
    def tolerance(self) -> float:
        """``max |a − b| / max |b|`` for every output."""
        if self.dtype is torch.float32:
            return SINGLE
        return HALF_INSIDE if self.half else CAST_INSIDE if self.casts else EXACT


def in_fp32(model: nn.Module, *paths: str) -> nn.Module:
    """The model with parts that stay in fp32 when the rest is cast, as its checkpoints are loaded."""
    for path in paths:
        part = model.get_submodule(path)
        part._apply = lambda fn, recurse=True, part=part: part  # type: ignore[method-assign,misc]
    return model


def entry(
    name: str,
    make: Callable[[int], nn.Module],
    inputs: Callable[[Draw], dict[str, Any]],
    *,
    casts: str = "",
    dtype: torch.dtype = torch.float64,
    odd: tuple[int, ...] = (9, 10, 12),
    batched: bool = True,
    half: bool = False,
    flex: bool = False,
) -> ZooCase:
    """A class of the zoo.

    Args:
        name: see :class:`ZooCase`.
        make: takes the number of heads.
        inputs: of one call.
        casts, dtype, batched, half, flex: see :class:`ZooCase`.
        odd: other numbers of heads that the model can have.
    """

    def at(heads: int) -> ModelCase:
        def draw(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
            return inputs(Draw(seed, dtype, batch, generator, heads))

        return ModelCase(name, heads, make, draw)

    return ZooCase(name, at, casts, dtype, odd[zlib.crc32(name.encode()) % len(odd)], batched, half, flex)
