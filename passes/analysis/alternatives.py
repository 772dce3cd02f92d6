"""Other ways to run an op of a planned program along one axis, and what each of them would cost."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.verifier import rule_of

from ..planner.allowed import allowed
from ..planner.cost import CostModel, Hardware
from ..planner.policy import policy_of
from ..planner.statistics import Statistics


class Alternatives:
    """The strategies of single ops along one axis, the others as planned.

    Args:
        program: at stage COMMUNICATING.
        axis: of its mesh.
        hardware: what exchanges are priced for.
    """

    def __init__(self, program: ir.Program, axis: str, hardware: Hardware) -> None:
        self._program = program
        self._axis = axis
        self._model = CostModel(hardware, program.mesh, axis, frozenset(program.mesh.names) - {axis})
        self._batch_only = policy_of(axis).batch_only
        self._statistics = Statistics(program.mesh, axis)

    def dividing(self, node: fx.Node) -> list[Strategy]:
        """Every strategy that divides the op, dims cut as they are or else evenly."""
        rule = rule_of(node)
        if rule is None:
            return []
        layouts = []
        for kind in (*map(ir.tensor_type, tensor_operands(node)), *filter(None, result_types(node))):
            dims = zip(kind.shape, kind.dims, strict=True)
            layouts.append([[dim.layout if dim else ir.Layout.even(size)] if size > 1 else [] for size, dim in dims])
        found = rule.strategies(layouts) + rule.ring_strategies(layouts)
        return [strategy for strategy in found if strategy.divided is not None]

    def allowed(self, node: fx.Node, strategies: list[Strategy]) -> list[Strategy]:
        """Those that the axis and the user's pins allow."""
        work = self._model.work(node)
        found = allowed(self._program, node, strategies, self._axis, work, self._statistics)
        return [strategy for strategy in found if not self._batch_only or _cuts_first_dims(strategy)]

    def price(
        self,
        node: fx.Node,
        strategy: Strategy,
        sources: Sequence[ir.TensorType],
        targets: Sequence[ir.TensorType | None] = (),
    ) -> float:
        """Seconds of the op, with what it takes to bring operands from ``sources`` and results to ``targets``.

        Params cost nothing: they are loaded where they are wanted. Without targets the results stay where the strategy
        leaves them.
        """
        moves = []
        for operand, kind, wanted in zip(tensor_operands(node), sources, strategy.operands, strict=True):
            if operand.name not in self._program.params:
                alike = sum(user.target is node.target for user in operand.users)  # what was moved once stays there
                moves.append(self._model.reshard(kind, kind.placement(self._axis), wanted) / max(alike, 1))
        returns = (
            [
                self._model.reshard(target, given, target.placement(self._axis))
                for target, given in zip(targets, strategy.results, strict=True)
                if target is not None and given is not None
            ]
            if targets
            else []
        )
        return self._model.compute(self._model.work(node), strategy) + self._together(moves) + self._together(returns)

    def reshard(self, source: ir.TensorType, target: ir.TensorType) -> float:
        """Seconds to take a value from one placement along the axis to another."""
        return self._model.reshard(target, source.placement(self._axis), target.placement(self._axis))

    def _together(self, moves: Sequence[float]) -> float:
        """Exchanges for one op share a latency, since they will be packed."""
        latency = self._model.hardware.latency
        exchanges = sum(move >= latency for move in moves)
        return sum(moves) - max(exchanges - 1, 0) * latency


def _cuts_first_dims(strategy: Strategy) -> bool:
    return all(not isinstance(placement, ir.Shard) or placement.dim == 0 for placement in strategy.operands)
