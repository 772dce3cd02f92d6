"""What an expanded op reduces over the ranks, for its cost."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.expansion import statistics
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import map_arguments, result_types, tensor_operands


class Statistics:
    """Expands ops along ``axis`` of ``mesh`` on trial. Blocks repeat: equal calls are expanded once."""

    def __init__(self, mesh: ir.Mesh, axis: str) -> None:
        self._mesh = mesh
        self._axis = axis
        self._known: dict[object, tuple[ir.TensorType, ...]] = {}

    def of(self, node: fx.Node, strategy: Strategy) -> tuple[ir.TensorType, ...]:
        """The partial sums that ``node`` reduces under ``strategy``; none where it is not expanded."""
        if not strategy.expanded:
            return ()
        operands = ir.info(node).uses or tuple(ir.tensor_type(operand) for operand in tensor_operands(node))
        results = result_types(node)
        key = (node.target, repr(map_arguments(node, lambda _: "%")), operands, results, strategy)
        if key not in self._known:
            placed = [kind.with_placement(self._axis, p) for kind, p in zip(operands, strategy.operands, strict=True)]
            made = [
                kind if kind is None or p is None else kind.with_placement(self._axis, p)
                for kind, p in zip(results, strategy.results, strict=True)
            ]
            self._known[key] = tuple(statistics(node, placed, made, self._mesh))
        return self._known[key]
