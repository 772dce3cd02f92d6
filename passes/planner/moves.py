"""The single-axis moves that take a value from one placement to another: of all roads there are, the cheapest.

Every order of the axes leads there, but what one axis has gathered the next one has to move as well: cuts come first
where they can, and gathers last. An axis leaves a dim only while it is its innermost one, and joins it only behind
those that the target has outside of it; where it is in the way, it is gathered, and cuts again later.

    minimise   Σ seconds of a move, without latency; of equally cheap roads the one with fewest moves
    over       roads on which each move takes one axis to its target or to every rank
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from functools import lru_cache

import fastvideo_ir as ir

from .cost import CostModel, Hardware

Move = tuple[str, ir.TensorType]
"""An axis, and the value's type when it has moved."""
WIDE = Hardware(latency=0.0)


@lru_cache(maxsize=1 << 14)
def moves(source: ir.TensorType, target: ir.TensorType, mesh: ir.Mesh) -> tuple[Move, ...]:
    """The moves from ``source`` to ``target`` on ``mesh``, in order; none where they are equal.

    Source: Dijkstra, "A note on two problems in connexion with graphs" (1959); the graph has a few dozen types.
    """
    number = itertools.count()
    waiting: list[tuple[float, int, int, ir.TensorType, tuple[Move, ...]]] = [(0.0, 0, next(number), source, ())]
    reached: set[ir.TensorType] = set()
    while True:
        seconds, steps, _, now, road = heapq.heappop(waiting)
        if now == target:
            return road
        if now in reached:
            continue
        reached.add(now)
        for axis, placement in _next_moves(now, target):
            after = now.with_placement(axis, placement)
            spent = seconds + move_seconds(now, after, axis, mesh, WIDE)
            heapq.heappush(waiting, (spent, steps + 1, next(number), after, (*road, (axis, after))))


def move_seconds(before: ir.TensorType, after: ir.TensorType, axis: str, mesh: ir.Mesh, hardware: Hardware) -> float:
    """What one move costs, of the pieces that the other axes have cut."""
    model = CostModel(hardware, mesh, axis, frozenset(mesh.names) - {axis})
    return model.reshard(before, before.placement(axis), after.placement(axis))


def _next_moves(now: ir.TensorType, target: ir.TensorType) -> Iterator[tuple[str, ir.Placement]]:
    """Those that ranks can make; towards the target first."""
    free = [axis for axis in sorted(now.placed_axes | target.placed_axes) if _is_innermost(now, axis)]
    for axis in free:
        wanted = target.placement(axis)
        becomes_sum = isinstance(now.placement(axis), ir.Shard) and isinstance(wanted, ir.Partial)
        if now.placement(axis) != wanted and not becomes_sum and _joins_in_order(now, target, axis):
            yield axis, wanted
    for axis in free:
        if not isinstance(now.placement(axis), ir.Replicate):
            yield axis, ir.Replicate()


def _is_innermost(kind: ir.TensorType, axis: str) -> bool:
    placement = kind.placement(axis)
    if not isinstance(placement, ir.Shard):
        return True
    sharding = kind.dims[placement.dim]
    return sharding is not None and sharding.axes[-1] == axis


def _joins_in_order(now: ir.TensorType, target: ir.TensorType, axis: str) -> bool:
    placement = target.placement(axis)
    if not isinstance(placement, ir.Shard):
        return True
    present, end = now.dims[placement.dim], target.dims[placement.dim]
    assert end is not None
    axes = tuple(name for name in present.axes if name != axis) if present else ()
    same_layout = present is None or not axes or present.layout == placement.layout
    return same_layout and axes == end.axes[: end.axes.index(axis)]
