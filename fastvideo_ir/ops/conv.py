"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..factors import DimExpr, FactorRule, RuleBuilder, product
from ..graph import bind, tensor_operands
from ..program import Stage, tensor_type
from .define import aten, define, operand_shapes, result_shape, whole_rule
from .registry import OpDef, RankView, registry, target_name


def _per_dim(value: object, rank: int) -> list[int]:
    if isinstance(value, int):
        return [value] * rank
    assert isinstance(value, (list, tuple))
    return list(value) * rank if len(value) == 1 else list(value)


@dataclass(frozen=True)
class _Convolution:
    """The arguments of any convolution, per spatial dim."""

    stride: list[int]
    dilation: list[int]
    padded: list[bool]
    groups: int
    transposed: bool

    @staticmethod
    def of(node: fx.Node, kernel: Sequence[int]) -> _Convolution:
        arguments = bind(node)
        rank = len(kernel)
        transposed = bool(arguments.get("transposed", "transpose" in target_name(node.target)))
        padding = arguments["padding"]
        if isinstance(padding, str):
            padded = [padding == "same" and size > 1 for size in kernel]
        else:
            padded = [bool(amount) for amount in _per_dim(padding, rank)]
        if transposed:
            padded = [a or bool(b) for a, b in zip(padded, _per_dim(arguments["output_padding"], rank), strict=True)]
        stride, dilation = _per_dim(arguments["stride"], rank), _per_dim(arguments["dilation"], rank)
        return _Convolution(stride, dilation, padded, arguments["groups"], transposed)


def conv_rule(node: fx.Node) -> FactorRule:
    """``b (g c) …, (g o) c … -> b (g o) …``: the channels of a group are summed; transposed, weights are ``(g c) o …``.

    Where kernel and stride agree and nothing is padded (a patch embedding), each position is its own window: the
    spatial dim is position × offset, and positions are parallel. Elsewhere windows overlap and spatial dims are whole.
    """
    shapes = operand_shapes(node)
    if len(shapes[0]) != len(shapes[1]):
        return whole_rule(node)  # unbatched input
    (batch_size, channels, *spatial), kernel = shapes[0], shapes[1][2:]
    out = result_shape(node)
    conv = _Convolution.of(node, kernel)
    builder = RuleBuilder()
    batch, group = builder.factor(batch_size), builder.factor(conv.groups)
    summed, made = builder.summed(channels // conv.groups), builder.factor(out[1] // conv.groups)
    before: list[DimExpr] = [batch, product(group, summed)]
    after: list[DimExpr] = [batch, product(group, made)]
    weight = [product(group, summed), made] if conv.transposed else [product(group, made), summed]
    for dim, (size_in, size_out, size) in enumerate(zip(spatial, out[2:], kernel, strict=True)):
        coarse, fine = (size_in, size_out) if conv.transposed else (size_out, size_in)
        disjoint = conv.stride[dim] == size and conv.dilation[dim] == 1 and not conv.padded[dim]
        weight.append(offset := builder.whole(size))
        if disjoint and fine == coarse * size:
            position = builder.factor(coarse)
            window = product(position, offset)
            before.append(position if conv.transposed else window)
            after.append(window if conv.transposed else position)
        else:
            before.append(builder.whole(size_in))
            after.append(builder.whole(size_out))
    if len(shapes) == 3:
        return builder.rule([before, weight, [after[1]]], [after], linear=((0, 2), (1, 2)), addends=(2,))
    return builder.rule([before, weight], [after], linear=((0,), (1,)))


@torch.library.custom_op("fv::channel_bias", mutates_args=())
def channel_bias(bias: Tensor, shape: Sequence[int]) -> Tensor:
    """``bias`` spread over dim 1 of a tensor of ``shape``: a convolution of no channels at all."""
    return bias.view(-1, *[1] * (len(shape) - 2)).expand(shape).contiguous()


@channel_bias.register_fake
def _(bias: Tensor, shape: Sequence[int]) -> Tensor:
    return bias.new_empty(shape)


registry.register(OpDef(torch.ops.fv.channel_bias.default, "fv.channel_bias", first=Stage.LOCAL))


def localize_conv(node: fx.Node, rank: RankView) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A rank counts its own groups. PyTorch refuses convolutions of empty pieces, or gets their shape wrong."""
    operands = tensor_operands(node)
    source, weight = (rank.shape(operand) for operand in operands[:2])
    shape = list(rank.shape(node))
    if 0 in source or 0 in weight or 0 in shape:
        if len(operands) == 3 and 0 not in shape:
            return torch.ops.fv.channel_bias.default, (operands[2], shape), {}
        return aten.new_zeros.default, (operands[0], shape), {"dtype": tensor_type(node).dtype}
    arguments = bind(node)
    transposed = _Convolution.of(node, weight[2:]).transposed
    arguments["groups"] = (shape[1] if transposed else source[1]) // weight[1]
    return node.target, tuple(arguments.values()), {}


def conv_flops(node: fx.Node) -> int:
    """Two per multiply-add, at global shapes."""
    source, weight = operand_shapes(node)[:2]
    steps = source if _Convolution.of(node, weight[2:]).transposed else result_shape(node)
    return 2 * math.prod(steps) * math.prod(weight[1:])


define(
    """
    conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv3d.padding convolution.default
    conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input
    """,
    conv_rule,
    flops=conv_flops,
    localize=localize_conv,
)
