"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..factors import DimExpr, FactorRule, RuleBuilder, product
from ..graph import bind, tensor_operands
from ..program import Stage, tensor_type
from .custom import custom_op
from .define import aten, define, operand_shapes, result_shape, whole_rule
from .registry import OpDef, RankView, registry, target_name


def _per_dim(value: object, rank: int) -> list[int]:
    if isinstance(value, int):
        return [value] * rank
    assert isinstance(value, (list, tuple))
    return list(value) * rank if len(value) == 1 else list(value)


@dataclass(frozen=True)
class Convolution:
    """The arguments of any convolution, per spatial dim.

    Attributes:
        padding: zeros on each side; None where the two sides differ ("same" with an even window).
        output_padding: of a transposed convolution.
    """

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    padding: list[int | None]
    output_padding: list[int]
    groups: int
    transposed: bool

    @staticmethod
    def of(node: fx.Node, kernel: Sequence[int]) -> Convolution:
        arguments = bind(node)
        rank = len(kernel)
        transposed = bool(arguments.get("transposed", "transpose" in target_name(node.target)))
        stride, dilation = _per_dim(arguments["stride"], rank), _per_dim(arguments["dilation"], rank)
        given = arguments["padding"]
        if isinstance(given, str):
            totals = [d * (size - 1) if given == "same" else 0 for d, size in zip(dilation, kernel, strict=True)]
            padding = [None if total % 2 else total // 2 for total in totals]
        else:
            padding = [*_per_dim(given, rank)]
        output_padding = _per_dim(arguments["output_padding"], rank) if transposed else [0] * rank
        return Convolution(list(kernel), stride, dilation, padding, output_padding, arguments["groups"], transposed)

    def is_disjoint(self, dim: int) -> bool:
        """Whether windows lie side by side, as in a patch embedding."""
        padded = self.padding[dim] != 0 or self.output_padding[dim]
        return self.stride[dim] == self.kernel[dim] and self.dilation[dim] == 1 and not padded

    def reach(self, dim: int) -> int:
        """Elements from the first to the last one of a window."""
        return (self.kernel[dim] - 1) * self.dilation[dim] + 1


def conv_rule(node: fx.Node) -> FactorRule:
    """``b (g c) …, (g o) c … -> b (g o) …``: the channels of a group are summed; transposed, weights are ``(g c) o …``.

    Where kernel and stride agree and nothing is padded (a patch embedding), each position is its own window: the
    spatial dim is position × offset, and positions are parallel. Where windows overlap and padding keeps the size, or
    one element a stride of it, a position needs its neighbours. Other spatial dims are whole.
    """
    shapes = operand_shapes(node)
    if len(shapes[0]) != len(shapes[1]):
        return whole_rule(node)  # unbatched input
    (batch_size, channels, *spatial), kernel = shapes[0], shapes[1][2:]
    out = result_shape(node)
    conv = Convolution.of(node, kernel)
    builder = RuleBuilder()
    batch, group = builder.factor(batch_size), builder.factor(conv.groups)
    summed, made = builder.summed(channels // conv.groups), builder.factor(out[1] // conv.groups)
    before: list[DimExpr] = [batch, product(group, summed)]
    after: list[DimExpr] = [batch, product(group, made)]
    weight = [product(group, summed), made] if conv.transposed else [product(group, made), summed]
    for dim, (size_in, size_out, size) in enumerate(zip(spatial, out[2:], kernel, strict=True)):
        coarse, fine = (size_in, size_out) if conv.transposed else (size_out, size_in)
        stride = conv.stride[dim]
        weight.append(offset := builder.whole(size))
        if conv.is_disjoint(dim) and fine == coarse * size:
            position = builder.factor(coarse)
            window = product(position, offset)
            before.append(position if conv.transposed else window)
            after.append(window if conv.transposed else position)
        elif not conv.transposed and conv.padding[dim] is not None and size_in == size_out * stride:
            position = builder.neighbours(size_out, max(conv.reach(dim) - stride, 0) / size_in)
            before.append(product(position, builder.whole(stride)))
            after.append(position)
        else:
            before.append(builder.whole(size_in))
            after.append(builder.whole(size_out))
    if len(shapes) == 3:
        return builder.rule([before, weight, [after[1]]], [after], linear=((0, 2), (1, 2)), addends=(2,))
    return builder.rule([before, weight], [after], linear=((0,), (1,)))


@custom_op("fv::channel_bias")
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
    transposed = Convolution.of(node, weight[2:]).transposed
    arguments["groups"] = (shape[1] if transposed else source[1]) // weight[1]
    return node.target, tuple(arguments.values()), {}


def conv_flops(node: fx.Node) -> int:
    """Two per multiply-add, at global shapes."""
    source, weight = operand_shapes(node)[:2]
    steps = source if Convolution.of(node, weight[2:]).transposed else result_shape(node)
    return 2 * math.prod(steps) * math.prod(weight[1:])


# Made of plain ops, so that they are counted, and fused, as these are.
torch.library.define(
    "fv::conv_replicate",
    "(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor",
)


def _conv_replicate(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution that repeats the border where others have zeros."""
    sides = [amount for amount in reversed(padding) for _ in range(2)]
    padded = F.pad(input, sides, mode="replicate") if any(sides) else input
    none = [0] * len(stride)
    return torch.convolution(padded, weight, bias, stride, none, dilation, False, none, groups)


torch.library.impl("fv::conv_replicate", "CompositeImplicitAutograd", _conv_replicate)
conv_replicate = torch.ops.fv.conv_replicate.default
registry.register(OpDef(conv_replicate, "fv.conv_replicate", rule=conv_rule, localize=localize_conv, flops=conv_flops))
torch.library.define(
    "fv::conv_halo",
    "(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, "
    "int dim, str axis, bool replicate=False) -> Tensor",
)


def _conv_halo(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dim: int,
    axis: str,
    replicate: bool = False,
) -> Tensor:
    """A convolution whose ``dim`` is sharded over ``axis``: ranks exchange the edges of their pieces."""
    if replicate:
        return _conv_replicate(input, weight, bias, stride, padding, dilation, groups)
    return torch.convolution(input, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


torch.library.impl("fv::conv_halo", "CompositeImplicitAutograd", _conv_halo)
conv_halo = torch.ops.fv.conv_halo.default
registry.register(
    OpDef(
        conv_halo,
        "fv.conv_halo",
        rule=conv_rule,
        localize=localize_conv,
        flops=conv_flops,
        first=Stage.COMMUNICATING,
        last=Stage.COMMUNICATING,
    )
)


def with_halo(node: fx.Node, dim: int, axis: str) -> tuple[Any, ...]:
    """Arguments of the ``fv.conv_halo`` that does what the convolution ``node`` does."""
    operands = tensor_operands(node)
    conv = Convolution.of(node, tensor_type(operands[1]).shape[2:])
    bias = operands[2] if len(operands) == 3 else None
    replicate = bool(bind(node).get("replicate", node.target is conv_replicate))
    return (*operands[:2], bias, conv.stride, conv.padding, conv.dilation, conv.groups, dim, axis, replicate)


define(
    """
    conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv3d.padding convolution.default
    conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input
    """,
    conv_rule,
    flops=conv_flops,
    localize=localize_conv,
)
