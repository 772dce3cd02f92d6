"""``insert-reshards``: puts ``fv.reshard`` where a value's placement and its use differ."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import map_operands, tensor_operands


class InsertReshards(ir.Pass):
    """Honours and clears every ``uses``; gathers the outputs.

    A value that is already held in the wanted placement is not moved again, and a replicated copy is preferred as the
    source, because cutting it is local.
    """

    name = "insert-reshards"
    needs = ir.Stage.CANONICAL
    reaches = ir.Stage.PLACED

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        held: dict[fx.Node, list[fx.Node]] = {}
        for node in list(program.nodes):
            uses = ir.info(node).uses if node.op == "call_function" else None
            if uses is None:
                continue
            moved = [
                _in_placement(rewriter, operand, use, node, held)
                for operand, use in zip(tensor_operands(node), uses, strict=True)
            ]
            rewriter.set_arguments(node, *map_operands(node, moved))
            rewriter.set_uses(node, None)
        outputs = [
            _in_placement(rewriter, value, ir.tensor_type(value).unplaced, program.output_node, held)
            if isinstance(value, fx.Node)
            else value
            for value in program.output_values
        ]
        rewriter.set_outputs(outputs)


def _in_placement(
    rewriter: ir.Rewriter, value: fx.Node, want: ir.TensorType, user: fx.Node, held: dict[fx.Node, list[fx.Node]]
) -> fx.Node:
    copies = held.setdefault(value, [value])
    for copy in copies:
        if ir.tensor_type(copy) == want:
            return copy
    source = min(copies, key=lambda copy: exchanges(ir.tensor_type(copy), want))
    new = rewriter.insert(ir.dialect.reshard, (source,), before=user, sources=(source, user), type=want)
    copies.append(new)
    return new


def exchanges(source: ir.TensorType, target: ir.TensorType) -> int:
    """Along how many axes ranks must talk to each other for this move."""
    axes = source.placed_axes | target.placed_axes
    return sum(
        source.placement(axis) != target.placement(axis) and not isinstance(source.placement(axis), ir.Replicate)
        for axis in axes
    )
