"""``canonicalize``: drops what computes nothing, so that later passes see one form of each thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.define import aten, resolve

Fold = Callable[[fx.Node, dict[str, Any]], fx.Node | None]


def _same_value(node: fx.Node, arguments: dict[str, Any]) -> fx.Node | None:
    """The operand, where the result has its dtype and shape."""
    operand = node.args[0]
    same = isinstance(operand, fx.Node) and ir.tensor_type(operand) == ir.tensor_type(node)
    return operand if same and isinstance(operand, fx.Node) else None


def _whole_slice(node: fx.Node, arguments: dict[str, Any]) -> fx.Node | None:
    return _same_value(node, arguments) if arguments.get("step", 1) == 1 else None


def _idle_dropout(node: fx.Node, arguments: dict[str, Any]) -> fx.Node | None:
    idle = not arguments["train"] or arguments["p"] == 0
    return _same_value(node, arguments) if idle else None


def _folds() -> dict[Any, Fold]:
    table: dict[str, Fold] = {
        "to.dtype": _same_value,
        "to.dtype_layout": _same_value,
        "to.device": _same_value,
        "to.other": _same_value,
        "_to_copy.default": _same_value,
        "type_as.default": _same_value,
        "alias.default": _same_value,
        "detach.default": _same_value,
        "lift_fresh_copy.default": _same_value,
        "lift_fresh.default": _same_value,
        "contiguous.default": _same_value,
        "clone.default": _same_value,
        "view.default": _same_value,
        "reshape.default": _same_value,
        "expand.default": _same_value,
        "slice.Tensor": _whole_slice,
        "dropout.default": _idle_dropout,
    }
    return {resolve(name): fold for name, fold in table.items() if resolve(name) is not None}


FILLED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "new_zeros.default": lambda arguments: 0,
    "new_ones.default": lambda arguments: 1,
    "new_full.default": lambda arguments: arguments["fill_value"],
    "zeros_like.default": lambda arguments: 0,
    "ones_like.default": lambda arguments: 1,
    "full_like.default": lambda arguments: arguments["fill_value"],
    "fill.Scalar": lambda arguments: arguments["value"],
    "new_empty.default": lambda arguments: 0,
    "empty_like.default": lambda arguments: 0,
}
"""Ops that read dtype and shape of a tensor and none of its values, to the number that they fill theirs with.

What is empty may hold anything, and zeros are the same on every rank.
"""

NEED_STRIDES = (aten.view_as_complex.default, aten.view.dtype)
"""Views of the bits: neighbours must lie side by side. A copy in front of them costs nothing where they do already."""


class Canonicalize(ir.Pass):
    """Folds casts to the same dtype, copies, whole slices and idle dropout; makes ``type_as`` a plain cast.

    A constant that is shaped like a tensor reads nothing of it, so it becomes ``full``: its pieces are made where they
    are needed, and the tensor does not travel there.

    A graph is functional, so dropping a copy inside it cannot be seen by anyone. Strides are nobody's promise either:
    ``view`` becomes ``reshape``, and ``contiguous`` goes, but in front of what reads the bits of its operand. What the
    program returns is in the caller's hands, though: it never shares memory with an input or a param.
    """

    name = "canonicalize"
    reaches = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        folds = _folds()
        filled = {resolve(name): value for name, value in FILLED.items()}
        for node in list(program.nodes):
            fold = folds.get(node.target) if node.op == "call_function" else None
            operand = fold(node, bind(node)) if fold else None
            if operand is not None:
                rewriter.replace(node, operand)
            elif node.target in filled:
                kind = ir.tensor_type(node)
                arguments = (list(kind.shape), filled[node.target](bind(node)))
                rewriter.replace_with(node, aten.full.default, arguments, {"dtype": kind.dtype, "device": ir.DEVICE})
            elif node.target in NEED_STRIDES:
                source, *rest = node.args
                dense = rewriter.insert(aten.contiguous.default, (source,), before=node, sources=(node,))
                rewriter.set_arguments(node, (dense, *rest), node.kwargs)
            elif node.target is aten.view.default:
                rewriter.replace_with(node, aten.reshape.default, (node.args[0], list(ir.tensor_type(node).shape)))
            elif node.target in (aten.type_as.default, aten.to.other):
                rewriter.replace_with(node, aten.to.dtype, (node.args[0], ir.tensor_type(node).dtype))
        rewriter.set_outputs([_unshared(rewriter, value) for value in program.output_values])
        rewriter.erase_dead()


def _unshared(rewriter: ir.Rewriter, value: Any) -> Any:
    """``value``, or a copy of it where it may be a view of a placeholder."""
    source = value
    while isinstance(source, fx.Node) and ir.ops.has_trait(source, ir.Trait.VIEW):
        source = source.args[0]
    if not isinstance(source, fx.Node) or source.op != "placeholder":
        return value
    return rewriter.insert(aten.clone.default, (value,), before=rewriter.program.output_node, sources=(value,))
