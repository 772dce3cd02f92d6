"""``recognize-attention``: turns every form of softmax attention into ``fv.attention``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.define import aten


class RecognizeAttention(ir.Pass):
    """Fused calls, and ``softmax(q @ kᵀ · scale + mask) @ v`` written by hand."""

    name = "recognize-attention"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            if node.target is aten.scaled_dot_product_attention.default:
                _fused(rewriter, node)
            elif node.target in (aten.matmul.default, aten.bmm.default):
                match = match_handwritten(node)
                if match is not None:
                    _handwritten(rewriter, node, match)
        rewriter.erase_dead()


def _fused(rewriter: ir.Rewriter, node: fx.Node) -> None:
    arguments = bind(node)
    query = ir.tensor_type(arguments["query"])
    if arguments["dropout_p"] or len(query.shape) != 4:
        return
    operands = (arguments["query"], arguments["key"], arguments["value"])
    rewriter.replace_with(
        node,
        torch.ops.fv.attention.default,
        (*operands, arguments["attn_mask"], arguments["scale"], arguments["is_causal"]),
    )


@dataclass(frozen=True)
class Handwritten:
    """The parts of an attention written as matmul, softmax, matmul."""

    query: fx.Node
    key_transposed: fx.Node
    value: fx.Node
    mask: fx.Node | None
    scale: float


def match_handwritten(node: fx.Node) -> Handwritten | None:
    """The attention that ends in the matmul ``node``, or None where it is none."""
    weights, value = node.args[:2]
    if not isinstance(weights, fx.Node) or not isinstance(value, fx.Node):
        return None
    dtype = ir.tensor_type(value).dtype
    rank = len(ir.tensor_type(node).shape)
    soft = _through_casts(weights, dtype)
    if (
        soft is None
        or soft.target is not aten.softmax.int
        or len(soft.users) != 1
        or soft.args[1] not in (-1, rank - 1)
    ):
        return None
    logits = soft.args[0]
    assert isinstance(logits, fx.Node)
    if not _holds(ir.tensor_type(soft).dtype, ir.tensor_type(logits).dtype):
        return None
    scores = _through_casts(logits, dtype)
    if scores is None:
        return None
    mask: fx.Node | None = None
    if scores.target is aten.baddbmm.default:
        return _fused_mask(scores, value, dtype)
    if scores.target is aten.add.Tensor and not scores.kwargs and isinstance(scores.args[1], fx.Node):
        left, right = scores.args
        assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
        scores, mask = (left, right) if _is_scores(left, dtype) else (right, left)
    found = _through_scaling(scores, dtype)
    if found is None or not _is_matmul(found[0]):
        return None
    scores, scale = found
    query, key = scores.args[:2]
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
    match = Handwritten(query, key, value, mask, scale)
    return match if _suits(match, dtype, rank) else None


def _fused_mask(scores: fx.Node, value: fx.Node, dtype: torch.dtype) -> Handwritten | None:
    """Mask, scores and scale in one ``baddbmm``, whose mask is not read where ``beta`` is 0."""
    arguments = bind(scores)
    if arguments["beta"] not in (0, 1):
        return None
    mask = arguments["self"] if arguments["beta"] else None
    match = Handwritten(arguments["batch1"], arguments["batch2"], value, mask, float(arguments["alpha"]))
    return match if _suits(match, dtype, 3) else None


def _suits(match: Handwritten, dtype: torch.dtype, rank: int) -> bool:
    """Whether the parts have one dtype, and batch dims that agree."""
    kinds = [ir.tensor_type(part) for part in (match.query, match.key_transposed, match.value)]
    if rank not in (3, 4) or any(len(kind.shape) != rank for kind in kinds) or len({k.shape[:-2] for k in kinds}) != 1:
        return False
    mask_holds = match.mask is None or _holds(dtype, ir.tensor_type(match.mask).dtype)
    return mask_holds and {kind.dtype for kind in kinds} == {dtype}


def _is_matmul(node: fx.Node) -> bool:
    return node.target in (aten.matmul.default, aten.bmm.default)


def _is_scores(node: fx.Node, dtype: torch.dtype) -> bool:
    found = _through_scaling(node, dtype)
    return found is not None and _is_matmul(found[0])


def _through_scaling(node: fx.Node, dtype: torch.dtype) -> tuple[fx.Node, float] | None:
    """The value before casts and products with numbers, and the product of these."""
    scale = 1.0
    while True:
        before = _through_casts(node, dtype)
        if before is None:
            return None
        if before.target not in (aten.mul.Tensor, aten.div.Tensor) or not isinstance(before.args[1], (int, float)):
            return before, scale
        factor = float(before.args[1])
        scale = scale * factor if before.target is aten.mul.Tensor else scale / factor
        operand = before.args[0]
        assert isinstance(operand, fx.Node)
        node = operand


def _through_casts(node: fx.Node, dtype: torch.dtype) -> fx.Node | None:
    """The value before casts; None where one of them keeps less than ``dtype``.

    Kernels compute their softmax in fp32 anyway, so casts to a wider float and back are part of an attention.
    """
    while node.target is aten.to.dtype and isinstance(node.args[0], fx.Node) and len(node.users) == 1:
        if not _holds(ir.tensor_type(node).dtype, dtype):
            return None
        node = node.args[0]
    return node


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of ``narrow`` is one of ``wide``."""
    return torch.promote_types(wide, narrow) == wide


def _handwritten(rewriter: ir.Rewriter, node: fx.Node, match: Handwritten) -> None:
    def insert(target: object, *args: object) -> fx.Node:
        assert callable(target)
        return rewriter.insert(target, args, before=node)

    key = insert(aten.transpose.int, match.key_transposed, -2, -1)
    parts = [match.query, key, match.value]
    three_dims = len(ir.tensor_type(node).shape) == 3
    mask = match.mask
    if three_dims:
        parts = [insert(aten.unsqueeze.default, part, 1) for part in parts]
        if mask is not None and len(ir.tensor_type(mask).shape) == 3:
            mask = insert(aten.unsqueeze.default, mask, 1)
    dtype = ir.tensor_type(match.query).dtype
    if mask is not None and ir.tensor_type(mask).dtype != dtype:
        mask = insert(aten.to.dtype, mask, dtype)
    out = insert(torch.ops.fv.attention.default, *parts, mask, match.scale, False)
    if three_dims:
        out = insert(aten.squeeze.dim, out, 1)
    if ir.tensor_type(out).dtype != ir.tensor_type(node).dtype:
        out = insert(aten.to.dtype, out, ir.tensor_type(node).dtype)
    rewriter.replace(node, out)
