"""Why a value is gathered: what its readers cost as planned, against the cheapest other way to run them."""

from __future__ import annotations

import math

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands

from ..planner.cost import Hardware
from .alternatives import Alternatives
from .time import NodeTimes


class Gathers:
    """Prices the all-gathers of one program.

    Args:
        program: at stage COMMUNICATING.
        times: its prices.
        hardware: what exchanges are priced for.
    """

    def __init__(self, program: ir.Program, times: NodeTimes, hardware: Hardware) -> None:
        self._times = times
        self._alternatives = {axis: Alternatives(program, axis, hardware) for axis in program.mesh.names}

    def seconds(self, gather: fx.Node) -> tuple[float, float] | None:
        """Seconds as planned and in the cheapest other way, the readers of what is gathered among both.

        None where there is nothing to compare: a reader is a view, an output or an exchange, or has no other way.
        """
        axis = str(gather.args[1])
        alternatives = self._alternatives[axis]
        planned, other = self._times.communication(gather), 0.0
        for reader in dict.fromkeys(user for value in gather.users for user in value.users):
            strategy = self._times.strategy(reader, axis) if _computes(reader) else None
            if strategy is None or strategy.divided is None:
                return None
            sources = [_before(operand, gather) for operand in tensor_operands(reader)]
            options = alternatives.allowed(reader, alternatives.dividing(reader))
            prices = [
                alternatives.price(reader, option, sources, result_types(reader))
                for option in options
                if option.operands != strategy.operands
            ]
            other += min(prices, default=math.inf)
            planned += alternatives.price(reader, strategy, [ir.tensor_type(o) for o in tensor_operands(reader)])
        return (planned, other) if math.isfinite(other) else None


def _computes(node: fx.Node) -> bool:
    placement = isinstance(node.target, ir.dialect.PlacementOp)
    return node.op == "call_function" and not placement and not ir.ops.has_trait(node, ir.Trait.VIEW)


def _before(operand: fx.Node, gather: fx.Node) -> ir.TensorType:
    """The type of an operand before it was gathered."""
    if is_getitem(operand) and operand.args[0] is gather:
        number = operand.args[1]
        assert isinstance(number, int)
        return ir.tensor_type(tensor_operands(gather)[number])
    return ir.tensor_type(operand)
