"""Why a value is gathered: what its readers cost as planned, against the cheapest way to run them without it."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.values import Value, tensor_of

from ..plan_sharding import without_needless_rings
from ..planner.cost import Hardware
from .alternatives import Alternatives
from .time import NodeTimes


@dataclass(frozen=True)
class Comparison:
    """A gather and the ops that read what it gathers, against these ops without it.

    Attributes:
        planned: seconds.
        otherwise: seconds of the cheapest other way; None where there is none.
        taken_whole_by: the ops that need all of it in any way.
    """

    planned: float
    otherwise: float | None
    taken_whole_by: tuple[str, ...] = ()


class Gathers:
    """Prices the all-gathers of one program.

    What every rank repeats of views, casts and the like is followed to the ops that divide their work or have FLOPs:
    without the gather it would be cut as the value was.

    Args:
        program: at stage COMMUNICATING.
        times: its prices.
        hardware: what exchanges are priced for.
    """

    def __init__(self, program: ir.Program, times: NodeTimes, hardware: Hardware) -> None:
        self._times = times
        self._position = {node: number for number, node in enumerate(program.nodes)}
        self._alternatives = {axis: Alternatives(program, axis, hardware) for axis in program.mesh.names}

    def compare(self, gather: fx.Node) -> Comparison | None:
        """Prices ``gather``, an all-gather; None where what it brings moves on, as along another axis."""
        axis = str(gather.args[1])
        before: dict[Value, ir.TensorType] = {
            (gather, number): ir.tensor_type(operand) for number, operand in enumerate(tensor_operands(gather))
        }
        planned, otherwise = self._times.communication(gather), 0.0
        whole: dict[str, None] = {}
        waiting = [(self._position[reader], reader) for reader in _readers(gather)]
        heapq.heapify(waiting)
        seen: set[fx.Node] = set()
        while waiting:
            _, reader = heapq.heappop(waiting)
            if reader in seen:
                continue
            seen.add(reader)
            found = self._reader(reader, before, axis)
            if found is None:
                return None
            here, without, results = found
            planned, otherwise = planned + here, otherwise + without
            if math.isinf(without):
                whole["output" if reader.op == "output" else ir.ops.target_name(reader.target)] = None
            for number, kind in enumerate(results):
                if kind is not None:
                    before[reader, number] = kind
            if results:
                for further in _readers(reader):
                    heapq.heappush(waiting, (self._position[further], further))
        return Comparison(planned, otherwise if math.isfinite(otherwise) else None, tuple(whole))

    def _reader(
        self, reader: fx.Node, before: dict[Value, ir.TensorType], axis: str
    ) -> tuple[float, float, tuple[ir.TensorType | None, ...]] | None:
        """Seconds of one reader as planned and without the gather; and its results' types then, if they are cut too."""
        if reader.op != "call_function" or runs_on_first_rank(reader):
            return 0.0, math.inf, ()
        alternatives, operands = self._alternatives[axis], tensor_operands(reader)
        kinds = [ir.tensor_type(operand) for operand in operands]
        sources = [before.get(tensor_of(operand), kind) for operand, kind in zip(operands, kinds, strict=True)]
        gathered = [number for number, operand in enumerate(operands) if tensor_of(operand) in before]
        if isinstance(reader.target, ir.dialect.PlacementOp):
            if reader.target is ir.dialect.shard and reader.args[1] == axis:
                return self._times.compute(reader), alternatives.reshard(sources[0], ir.tensor_type(reader)), ()
            return None
        strategy = self._times.strategy(reader, axis)
        if strategy is None:
            return None
        planned = alternatives.price(reader, strategy, kinds)
        options = without_needless_rings(alternatives.allowed(reader, alternatives.dividing(reader)))
        options = [option for option in options if all(option.operands[n] != ir.Replicate() for n in gathered)]
        repeated = strategy.divided is None and not self._times.flops(reader)
        kept = [o for o in options if repeated and all(o.operands[n] == sources[n].placement(axis) for n in gathered)]
        if kept:
            best = min(kept, key=lambda option: alternatives.price(reader, option, sources))
            return planned, alternatives.price(reader, best, sources), _placed(reader, best, axis)
        prices = [alternatives.price(reader, option, sources, result_types(reader)) for option in options]
        return planned, min(prices, default=math.inf), ()


def _readers(node: fx.Node) -> list[fx.Node]:
    """What reads any result of ``node``."""
    return list(dict.fromkeys(reader for u in node.users for reader in (u.users if is_getitem(u) else (u,))))


def _placed(node: fx.Node, strategy: Strategy, axis: str) -> tuple[ir.TensorType | None, ...]:
    return tuple(
        kind if kind is None or placement is None else kind.with_placement(axis, placement)
        for kind, placement in zip(result_types(node), strategy.results, strict=True)
    )
