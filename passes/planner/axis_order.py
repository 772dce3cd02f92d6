"""Which of several axes that cut one dim is the outer one.

Axes are planned one after the other, and a later one cuts inside of an earlier. Every order divides the work alike, but
not every order can be reached in one exchange. Heads that tensor parallelism has cut and an all-to-all cuts once more
must be cut inside of what was there; the other way round, all ranks would have to gather them first.

    minimise   Σ seconds of moves(value, use) over the reads that move something
    over       an order per group of calls that hand such a dim on as it is

The groups are taken in graph order, each as the others stand, until none changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.ops.attention import ring_forms
from fastvideo_ir.types import DimSharding, TupleType
from fastvideo_ir.values import tensor_of

from .cost import Hardware
from .moves import move_seconds, moves

MOST_SWEEPS = 4

Order = tuple[str, ...]


@dataclass
class Group:
    """Calls that hand a dim on which several axes cut.

    Attributes:
        nodes: the calls.
        order: of the axes, outermost first.
        fixed: whether the order is not ours to choose.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    order: Order = ()
    fixed: bool = False


@dataclass(frozen=True)
class _Read:
    """A value, and a use of it in another placement; the output has no reader."""

    source: fx.Node
    held: ir.TensorType
    wanted: ir.TensorType
    reader: fx.Node | None


class AxisOrder:
    """Orders the axes of every dim that several of them cut, in place. The program is planned along all of them.

    Args:
        rewriter: of the program; types and ``uses`` are set anew.
        hardware: what exchanges are priced for.
    """

    def __init__(self, rewriter: ir.Rewriter, hardware: Hardware) -> None:
        self._rewriter = rewriter
        self._program = rewriter.program
        self._hardware = hardware
        self._groups: dict[fx.Node, Group] = {}
        self._reads: list[_Read] = []

    def run(self) -> None:
        self._find_groups()
        groups = list({id(group): group for group in self._groups.values()}.values())
        touching: dict[int, list[_Read]] = {}
        for read in self._reads:
            for group in {id(g): g for n in (read.source, read.reader) if n and (g := self._groups.get(n))}.values():
                touching.setdefault(id(group), []).append(read)
        for _ in range(MOST_SWEEPS):
            changed = [self._choose(group, touching.get(id(group), [])) for group in groups if not group.fixed]
            if not any(changed):
                break
        for node, group in self._groups.items():
            if not group.fixed:
                self._apply(node, group.order)

    def _find_groups(self) -> None:
        for node in self._program.nodes:
            if node.op == "output" or is_getitem(node):
                continue
            results = [kind for kind in result_types(node) if kind is not None]
            uses = ir.info(node).uses or ()
            orders = {order for kind in (*uses, *results) for order in _orders(kind)}
            if orders:
                fixed = len(orders) > 1 or node.op == "placeholder" or not uses or _is_ring(node, uses)
                self._groups[node] = Group([node], next(iter(orders)), fixed)
            for operand, use in zip(tensor_operands(node), uses, strict=bool(uses)):
                source, held = tensor_of(operand)[0], ir.tensor_type(operand)
                if held != use:
                    self._reads.append(_Read(source, held, use, node))
                elif any(_orders(use)):
                    self._merge(source, node)
        for value in self._program.output_values:
            if isinstance(value, fx.Node):
                kind = ir.tensor_type(value)
                self._reads.append(_Read(tensor_of(value)[0], kind, kind.unplaced, None))
        self._reads = list(dict.fromkeys(self._reads))

    def _merge(self, one: fx.Node, other: fx.Node) -> None:
        kept, gone = self._groups[one], self._groups[other]
        if kept is not gone:
            kept.fixed |= gone.fixed or kept.order != gone.order
            kept.nodes += gone.nodes
            self._groups.update(dict.fromkeys(gone.nodes, kept))

    def _choose(self, group: Group, reads: Sequence[_Read]) -> bool:
        """Give a group the order in which least is exchanged; whether that is another one than before."""
        before = group.order
        seconds: dict[Order, float] = {}
        for order in permutations(before):
            group.order = order
            seconds[order] = sum(self._seconds(read) for read in reads)
        group.order = before
        best = min(seconds, key=seconds.__getitem__)
        if seconds[best] < seconds[before]:
            group.order = best
        return group.order != before

    def _seconds(self, read: _Read) -> float:
        now, end = self._ordered(read.held, read.source), self._ordered(read.wanted, read.reader)
        total = 0.0
        for axis, kind in moves(now, end, self._program.mesh):
            total += move_seconds(now, kind, axis, self._program.mesh, self._hardware)
            now = kind
        return total

    def _ordered(self, kind: ir.TensorType, node: fx.Node | None) -> ir.TensorType:
        group = self._groups.get(node) if node is not None else None
        return kind if group is None else _reordered(kind, group.order)

    def _apply(self, node: fx.Node, order: Order) -> None:
        uses = ir.info(node).uses
        assert uses is not None
        self._rewriter.set_uses(node, tuple(_reordered(use, order) for use in uses))
        kinds = [kind and _reordered(kind, order) for kind in result_types(node)]
        is_row = isinstance(ir.value_type(node), TupleType)
        self._rewriter.set_type(node, TupleType(tuple(kinds)) if is_row or kinds[0] is None else kinds[0])
        for user in node.users:
            if is_getitem(user):
                kind = kinds[tensor_of(user)[1]]
                assert kind is not None
                self._rewriter.set_type(user, kind)


def _orders(kind: ir.TensorType) -> list[Order]:
    return [dim.axes for dim in kind.dims if dim and len(dim.axes) > 1]


def _reordered(kind: ir.TensorType, order: Order) -> ir.TensorType:
    dims = tuple(DimSharding(order, dim.layout) if dim and set(dim.axes) == set(order) else dim for dim in kind.dims)
    return ir.TensorType(kind.dtype, kind.shape, dims, kind.partial)


def _is_ring(node: fx.Node, uses: Sequence[ir.TensorType]) -> bool:
    """Whether keys travel, around the innermost axis of their dim."""
    return ring_forms(node.target) is not None and uses[1].dims[-2] is not None
