"""``fv.cat_linear``: a linear layer over channels that lie in several tensors, without joining them first.

A single-stream block multiplies what attention and the first half of its MLP yield with one weight, and joins them for
that: as many bytes as its widest activation, written and read once more. Here each tensor is multiplied with its own
columns of the weight, and the products are summed by the GEMMs themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import operand_shapes


@custom_op("fv::cat_linear")
def cat_linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.cat(parts, -1) @ weight.T + bias``. A sum of all but the last part is rounded once to the dtype.

    Args:
        parts: ``[..., in_n]`` each, alike but for the last dim.
        weight: ``[out, Σ in_n]``.
        bias: ``[out]``; None for zero.

    Returns:
        ``[..., out]``.
    """
    sizes = [part.shape[-1] for part in parts]
    columns = torch.split(weight, sizes, 1)
    rows = [part.reshape(-1, size) for part, size in zip(parts, sizes, strict=True)]
    first, *others = sorted(range(len(parts)), key=sizes.__getitem__)  # the smaller the sum that is rounded, the better
    total = F.linear(rows[first], columns[first], bias)
    for number in others:
        total.addmm_(rows[number], columns[number].t())
    return total.view(*parts[0].shape[:-1], weight.shape[0])


@cat_linear.register_fake
def _(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    return parts[0].new_empty((*parts[0].shape[:-1], weight.shape[0]))


@register_flop_formula(torch.ops.fv.cat_linear)
def _formula(parts: Sequence[Sequence[int]], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(parts[0][:-1]) * math.prod(weight)


def _shapes(node: fx.Node) -> tuple[list[tuple[int, ...]], tuple[int, ...], list[tuple[int, ...]]]:
    """Of the parts, the weight, and the bias where there is one."""
    count = len(bind(node)["parts"])
    shapes = operand_shapes(node)
    return shapes[:count], shapes[count], shapes[count + 1 :]


def cat_linear_rule(node: fx.Node) -> ir.FactorRule:
    """``b s i, b s j, o (i + j), o -> b s o``; what is contracted is whole."""
    parts, weight, bias = _shapes(node)
    builder = ir.RuleBuilder()
    batch, out = builder.dims(parts[0][:-1]), builder.factor(weight[0])
    operands = [[*batch, builder.whole(part[-1])] for part in parts]
    return builder.rule([*operands, [out, builder.whole(weight[1])], *([out] for _ in bias)], [[*batch, out]])


def _flops(node: fx.Node) -> int:
    parts, weight, _ = _shapes(node)
    return _formula(parts, weight)


cat_linear_op = torch.ops.fv.cat_linear.default
ir.ops.registry.register(ir.OpDef(cat_linear_op, "fv.cat_linear", rule=cat_linear_rule, flops=_flops))
