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
    weights = _through_casts(weights)
    rank = len(ir.tensor_type(node).shape)
    if weights.target is not aten.softmax.int or len(weights.users) != 1 or weights.args[1] not in (-1, rank - 1):
        return None
    scores = weights.args[0]
    assert isinstance(scores, fx.Node)
    scores = _through_casts(scores)
    mask: fx.Node | None = None
    scale = 1.0
    if scores.target is aten.add.Tensor and not scores.kwargs and isinstance(scores.args[1], fx.Node):
        left, right = scores.args
        assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
        scores, mask = (left, right) if _is_scores(left) else (right, left)
    while scores.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(scores.args[1], (int, float)):
        factor = float(scores.args[1])
        scale = scale * factor if scores.target is aten.mul.Tensor else scale / factor
        operand = scores.args[0]
        assert isinstance(operand, fx.Node)
        scores = operand
    if not _is_matmul(scores):
        return None
    query, key = scores.args[:2]
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
    shapes = [ir.tensor_type(part).shape for part in (query, key, value)]
    if rank not in (3, 4) or any(len(shape) != rank for shape in shapes) or len({s[:-2] for s in shapes}) != 1:
        return None
    return Handwritten(query, key, value, mask, scale)


def _is_matmul(node: fx.Node) -> bool:
    return node.target in (aten.matmul.default, aten.bmm.default)


def _is_scores(node: fx.Node) -> bool:
    while node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return _is_matmul(node)


def _through_casts(node: fx.Node) -> fx.Node:
    """The value before casts to a wider or equal float and back: kernels compute their softmax in fp32 anyway."""
    while node.target is aten.to.dtype and isinstance(node.args[0], fx.Node) and len(node.users) == 1:
        node = node.args[0]
    return node


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
