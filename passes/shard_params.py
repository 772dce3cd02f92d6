"""``shard-params``: ranks that need the same params store a piece each, and gather a block's params before it runs.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020), stage 3.
Nothing is hooked: the gathers stand in the program, one per block and dtype, each a block ahead of where it is needed,
so that it runs while the block before is computed. What was gathered is freed behind its last use.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.types import TupleType

from .analysis import USABLE, predict_memory, stretches_of, weight_bytes
from .planner.policy import policy_of

NEXT_TO_NOTHING = 0.1
"""Share of a device's memory below which params are not what it lacks."""


class ShardParams(ir.Pass):
    """Vectors, which are next to nothing, stay whole; so does a param without a dim that has a piece for every rank.

    Attributes:
        always: shard, whether memory is short or not.
        memory: bytes of one device, beyond which params are sharded; 0 for no limit.
        device: its type.
    """

    name = "shard-params"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    always: bool = False
    memory: int = 0
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        axes = [axis for axis, size in program.mesh.axes if size > 1 and policy_of(axis).whole_params]
        if axes and (self.always or self._is_short(program)):
            _shard(program, axes)

    def _is_short(self, program: ir.Program) -> bool:
        """Whether the program does not fit, and its params are part of the reason."""
        if weight_bytes(program, 0) <= NEXT_TO_NOTHING * self.memory:
            return False
        return bool(self.memory) and predict_memory(program, device=self.device).total > USABLE * self.memory


@dataclass(frozen=True)
class Stored:
    """A param, and the types that it takes from its piece to the whole, one axis gathered at a time."""

    node: fx.Node
    steps: tuple[tuple[str, ir.TensorType], ...]


def _shard(program: ir.Program, axes: list[str]) -> None:
    rewriter = ir.Rewriter(program, ShardParams.name)
    stretches = stretches_of(program)
    place = {node: number for number, stretch in enumerate(stretches) for node in stretch}
    needed: list[list[Stored]] = [[] for _ in stretches]
    for node in program.param_nodes:
        kind = ir.tensor_type(node)
        piece = _piece(kind, program.mesh, axes)
        if piece is None or program.output_node in node.users:
            continue
        rewriter.set_type(node, piece)
        stored = Stored(node, _steps(piece, axes))
        for number in sorted({place[user] for user in node.users}):
            needed[number].append(stored)
    first = [stretch[0] for stretch in stretches]
    for number, params in enumerate(needed):
        for group in _by_dtype(params):
            _gather(rewriter, group, stretches[number], first[max(number - 1, 0)])


def _piece(kind: ir.TensorType, mesh: ir.Mesh, axes: list[str]) -> ir.TensorType | None:
    """The type with one of its whole dims cut over all axes, evenly where that is possible; None where none can be."""
    parts = math.prod(mesh.size(axis) for axis in axes)
    if kind.placed_axes & set(axes) or sum(size > 1 for size in kind.shape) < 2:
        return None
    free = [dim for dim, size in enumerate(kind.shape) if kind.dims[dim] is None and size >= parts]
    if not free:
        return None
    dim = min(free, key=lambda dim: (kind.shape[dim] % parts != 0, dim))
    for axis in axes:
        kind = kind.with_placement(axis, ir.Shard(dim, ir.Layout.even(kind.shape[dim])))
    return kind


def _steps(piece: ir.TensorType, axes: list[str]) -> tuple[tuple[str, ir.TensorType], ...]:
    """The innermost axis comes off first."""
    steps = []
    for axis in reversed(axes):
        piece = piece.with_placement(axis, ir.Replicate())
        steps.append((axis, piece))
    return tuple(steps)


def _by_dtype(params: list[Stored]) -> list[list[Stored]]:
    """Those that can share an exchange."""
    groups: dict[torch.dtype, list[Stored]] = {}
    for param in params:
        groups.setdefault(ir.tensor_type(param.node).dtype, []).append(param)
    return list(groups.values())


def _gather(rewriter: ir.Rewriter, group: list[Stored], stretch: list[fx.Node], ahead: fx.Node) -> None:
    """Gather a stretch's params in one exchange per axis, the first at ``ahead``, and let its calls use them."""
    inside = set(stretch)
    values = [param.node for param in group]
    reader = {node: next(user for user in stretch if node in user.all_input_nodes) for node in values}
    steps = len(group[0].steps)
    for step in range(steps):
        axis = group[0].steps[step][0]
        kinds = [param.steps[step][1] for param in group]
        row = rewriter.insert(
            ir.dialect.all_gather,
            (values, axis),
            before=stretch[0] if step else ahead,
            sources=values,
            type=TupleType(tuple(kinds)),
        )
        values = []
        for number, (param, kind) in enumerate(zip(group, kinds, strict=True)):
            # Where an element is taken out the transfer is awaited: as late as can be.
            before = reader[param.node] if step == steps - 1 else stretch[0]
            values.append(
                rewriter.insert(operator.getitem, (row, number), before=before, sources=(param.node,), type=kind)
            )
    for param, value in zip(group, values, strict=True):
        rewriter.replace(param.node, value, only=lambda user: user in inside, erase=False)
