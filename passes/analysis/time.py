"""Modelled seconds of a planned program, call by call, by the cost model that planned it.

    one rank    flops / rate + bytes / memory bandwidth, on whole values
    a rank      the same on its pieces; the flops are divided as the op's factor rule says
    collective  what resharding each value costs; values that share an exchange share its latency
    ring, halo  what the transfers inside an op add to its own time

The rank is the busiest one: pieces are cut as ``tensor_split`` does, so rank 0 has the largest of each.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.collectives import Move
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.verifier import exchange_axis, rule_of, strategy_of

from ..planner.cost import CostModel, Hardware


class NodeTimes:
    """Prices of the calls of a program at stage COMMUNICATING.

    Args:
        program: with global shapes and its placements in the types.
        hardware: rates of a device and its links.
    """

    def __init__(self, program: ir.Program, hardware: Hardware) -> None:
        self._program = program
        self._hardware = hardware
        axes = frozenset(program.mesh.names)
        self._whole = CostModel(hardware, program.mesh, "", frozenset())
        self._local = CostModel(hardware, program.mesh, "", axes)
        self._along = {axis: CostModel(hardware, program.mesh, axis, axes - {axis}) for axis in axes}
        self._strategies: dict[tuple[fx.Node, str], Strategy | None] = {}

    def strategy(self, node: fx.Node, axis: str) -> Strategy | None:
        """How ``node`` runs along ``axis``, read off its types; None where no rule of its op says."""
        if (node, axis) not in self._strategies:
            operands = tuple(ir.tensor_type(operand) for operand in tensor_operands(node))
            self._strategies[node, axis] = strategy_of(rule_of(node), operands, result_types(node), axis)
        return self._strategies[node, axis]

    def flops(self, node: fx.Node) -> int:
        """Floating point operations at global shapes."""
        op = ir.ops.of(node)
        return op.flops(node) if op is not None and op.flops is not None else 0

    def share(self, node: fx.Node, at: Mapping[str, int]) -> float:
        """The part of an op's work that the rank at ``at`` does."""
        result = 1.0
        for axis, parts in self._program.mesh.axes:
            strategy = self.strategy(node, axis)
            if strategy is not None and strategy.divided is not None and strategy.divided.size:
                result *= strategy.divided.local_size([(parts, at[axis])]) / strategy.divided.size
        return result

    def one_rank(self, node: fx.Node) -> float:
        """Seconds of the call where there is one rank."""
        return 0.0 if is_getitem(node) else self._whole.work(node).seconds

    def compute(self, node: fx.Node) -> float:
        """Seconds of the call on the busiest rank, without its communication."""
        if is_getitem(node) or node.target in ir.dialect.COLLECTIVES:
            return 0.0
        if node.target in ir.dialect.LOCAL_PLACEMENTS:
            return self._reshard(node)
        work, flops = self._local.work(node), self.flops(node)
        busy = flops * self.share(node, self._program.mesh.coordinates(0)) if flops else 0.0
        return busy / work.rate + sum(work.operands + work.results) / work.bandwidth

    def communication(self, node: fx.Node) -> float:
        """Seconds of a collective, or what transfers inside an op add; 0 for other calls."""
        axis = exchange_axis(node)
        if axis is not None:
            strategy, model = self.strategy(node, axis), self._along[axis]
            assert strategy is not None, "the types of such an op say what is exchanged"
            return max(0.0, model.compute(model.work(node), strategy) - self.compute(node))
        if node.target not in ir.dialect.COLLECTIVES:
            return 0.0
        return self._reshard(node) - (len(tensor_operands(node)) - 1) * self._hardware.latency

    def exchanged(self, node: fx.Node) -> tuple[ir.TensorType, ...]:
        """The operands of which pieces are exchanged inside of an op."""
        axis, operands = exchange_axis(node), tensor_operands(node)
        strategy = self.strategy(node, axis) if axis is not None else None
        if strategy is None:
            return ()
        return tuple(ir.tensor_type(operands[number]) for number in strategy.travelling or (0,))

    def bytes_sent(self, node: fx.Node) -> int:
        """Bytes of a collective that leave the rank which sends most; all-reduce counts as reduce-scatter + gather.

        Around a ring every piece is passed on until all ranks but its own have had it. Of a halo, a rank between two
        others sends as much as it receives.
        """
        inside = exchange_axis(node)
        if inside is not None:
            strategy = self.strategy(node, inside)
            assert strategy is not None, "the types of such an op say what is exchanged"
            kinds = self.exchanged(node)
            if strategy.halo is not None:
                return int(strategy.halo * sum(map(self._along[inside].bytes_of, kinds)))
            return (self._program.mesh.size(inside) - 1) * sum(map(self._local.bytes_of, kinds))
        mesh, axis = self._program.mesh, str(node.args[1])
        pairs = list(zip(tensor_operands(node), result_types(node), strict=True))
        sent = []
        for rank in range(mesh.num_ranks):
            moves = [(Move(ir.tensor_type(o), r, axis, mesh, mesh.coordinates(rank)), r) for o, r in pairs if r]
            sent.append(sum(move.numel_sent() * result.dtype.itemsize for move, result in moves))
        return int(max(sent))

    def _reshard(self, node: fx.Node) -> float:
        axis = str(node.args[1])
        total = 0.0
        for operand, result in zip(tensor_operands(node), result_types(node), strict=True):
            if result is not None:
                source, target = ir.tensor_type(operand).placement(axis), result.placement(axis)
                total += self._along[axis].reshard(result, source, target)
        return total
