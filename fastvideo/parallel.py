"""How many ranks work along which axis, and what the user fixes about it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError, ShardingError, UnknownNameError

from .passes.planner.policy import refuse_small_batch

AXES = ("dp", "cfg", "ring", "sp", "tp")
"""Outermost first: ranks that talk most are neighbours."""


@dataclass(frozen=True, repr=False)
class Parallel:
    """A pinned division of the work. Axes multiply: ``Parallel(cfg=2, sp=4)`` takes eight ranks.

    Attributes:
        sp: sequence parallelism: tokens, and heads inside attention; weights stay whole.
        ring: sequence parallelism that leaves heads whole: keys and values go around the ranks. With ``sp`` it divides
            attention by heads and by tokens at once: 12 heads on 8 ranks are ``Parallel(sp=4, ring=2)``.
        tp: tensor parallelism: weights are cut.
        cfg: the two halves of a guided step, or any other batch, on different ranks.
        dp: several samples on different ranks.
        placements: per input, and per mesh axis, the dim that the axis cuts, or None where every rank keeps the input
            whole: ``{"hidden_states": {"sp": 1}}``. The planner decides everything else around it. An input inside of
            a container is named by its path, e.g. ``states[0]``.
        shard_params: True: of a param that all ranks of an axis need, each stores a piece, and a block's params are
            gathered right before it runs (as in ZeRO-3 and FSDP). None: where the device's memory is too small without.

    Raises:
        InvalidArgumentError: a size or a placement that can never work.
        UnknownNameError: a placement over an axis that does not exist; tells the nearest.
    """

    sp: int = 1
    tp: int = 1
    cfg: int = 1
    dp: int = 1
    ring: int = 1
    placements: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict, hash=False)
    shard_params: bool | None = None

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InvalidArgumentError(f"Parallel({axis}={size!r}): expected an integer of at least 1")
        if not isinstance(self.placements, Mapping):
            raise InvalidArgumentError(
                f"Parallel(placements={self.placements!r}): expected dims by input and axis, "
                'e.g. {"hidden_states": {"sp": 1}}'
            )
        for name, dims in self.placements.items():
            self._check_placement(name, dims)
        if self.shard_params is not None and not isinstance(self.shard_params, bool):
            raise InvalidArgumentError(f"Parallel(shard_params={self.shard_params!r}): expected True, False or None")
        if self.shard_params and self.num_ranks == self.tp:
            raise InvalidArgumentError(
                "shard_params=True needs an axis whose ranks hold the same params: sp, ring, cfg or dp",
                hint="tp cuts them already",
            )
        object.__setattr__(self, "placements", {name: dict(dims) for name, dims in self.placements.items()})

    def _check_placement(self, name: str, dims: object) -> None:
        if not isinstance(dims, Mapping):
            raise InvalidArgumentError(
                f"the placement of {name!r} is {dims!r}; expected dims by axis, e.g. {{'sp': 1}}"
            )
        for axis, dim in dims.items():
            if axis not in AXES:
                raise UnknownNameError(f"mesh axis in the placement of {name!r}", str(axis), AXES)
            if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
                raise InvalidArgumentError(
                    f"the placement of {name!r} over {axis!r} is {dim!r}; expected a dim or None"
                )
            if getattr(self, axis) == 1:
                raise InvalidArgumentError(
                    f"the placement of {name!r} is over {axis!r}, which has one rank", hint=f"give {axis}= its ranks"
                )

    def __repr__(self) -> str:
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        told = {name: value for name, value in given.items() if value and not (name in AXES and value == 1)}
        if self.shard_params is False:
            told["shard_params"] = False
        return f"Parallel({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def num_ranks(self) -> int:
        return math.prod(getattr(self, axis) for axis in AXES)

    @property
    def mesh(self) -> ir.Mesh:
        sizes = [(axis, int(getattr(self, axis))) for axis in AXES]
        return ir.Mesh(tuple((axis, size) for axis, size in sizes if size > 1))

    def check_names(self, forward: inspect.Signature, owner: str) -> None:
        """Refuse a placement of what ``owner`` does not take.

        Raises:
            UnknownNameError: tells the nearest parameter.
        """
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in forward.parameters.values()):
            return
        for path in self.placements:
            name = re.split(r"[.\[]", path, maxsplit=1)[0]
            if name not in forward.parameters:
                raise UnknownNameError(f"input of {owner}.forward in placements", name, forward.parameters)

    def check_inputs(self, paths: Sequence[str], tensors: Sequence[Tensor]) -> None:
        """Refuse, before the model is captured, what no plan for these inputs can do.

        Args:
            paths: where each tensor stands among the arguments.
            tensors: one each.

        Raises:
            UnknownNameError: a placement of an input that is no tensor of this call.
            ShardingError: the batch is too small, or a placed dim does not exist or is shorter than its axis.
        """
        refuse_small_batch(self.mesh, [tuple(tensor.shape) for tensor in tensors])
        shapes = dict(zip(paths, (tuple(tensor.shape) for tensor in tensors), strict=True))
        for path, dims in self.placements.items():
            if path not in shapes:
                raise UnknownNameError("tensor input in placements", path, shapes)
            parts: dict[int, int] = {}
            for axis, dim in dims.items():
                if dim is not None:
                    at = _dim_of(path, shapes[path], axis, dim)
                    parts[at] = parts.get(at, 1) * int(getattr(self, axis))
            for at, count in parts.items():
                if shapes[path][at] < count:
                    raise ShardingError(
                        f"dim {at} of input {path!r} has {shapes[path][at]} elements, too few for {count} ranks"
                    )

    def annotate(self, program: ir.Program, paths: Sequence[str]) -> None:
        """Give a captured program its mesh, and its inputs their placements."""
        program.mesh = self.mesh
        rewriter = ir.Rewriter(program, "parallel")
        for path, node in zip(paths, program.input_nodes, strict=True):
            dims = self.placements.get(path, {})
            shape = ir.tensor_type(node).shape
            for axis in (axis for axis in AXES if axis in dims):
                dim = dims[axis]
                placement: ir.Placement = ir.Replicate()
                if dim is not None:
                    at = _dim_of(path, shape, axis, dim)
                    placement = ir.Shard(at, ir.Layout.even(shape[at]))
                rewriter.pin(node, axis, placement)


def _dim_of(path: str, shape: tuple[int, ...], axis: str, dim: int) -> int:
    """``dim`` counted from the front."""
    if not -len(shape) <= dim < len(shape):
        raise ShardingError(
            f"placements={{{path!r}: {{{axis!r}: {dim}}}}}: the input has {len(shape)} dims, {list(shape)}; "
            f"dim {dim} does not exist"
        )
    return dim % len(shape)
