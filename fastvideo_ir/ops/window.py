"""Pooling, resizing and pixel shuffles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder, product
from ..graph import bind, operand_type, result_types, tensor_operands
from .define import define, operand_shapes, or_empty, result_shape
from .registry import RankView, target_name

LINEAR = ((0,),)


def window_rule(node: fx.Node) -> FactorRule:
    """Batch and channels are parallel. So are positions whose windows do not overlap; other spatial dims are whole.

    Windows are apart where a pool's kernel and stride agree and nothing is padded, where an adaptive pool divides its
    dim evenly, and where nearest neighbours are repeated, or taken, by a whole number. Averages and resizing
    are linear.
    """
    shape, out = operand_shapes(node)[0], result_shape(node)
    spatial = len(shape) - _spatial_dims(node)
    builder = RuleBuilder()
    shared = builder.dims(shape[:spatial])
    before: list[DimExpr] = [*shared]
    after: list[DimExpr] = [*shared]
    apart = _apart(node, shape[spatial:], out[spatial:])
    for size_in, size_out, alone in zip(shape[spatial:], out[spatial:], apart, strict=True):
        if not alone:
            before.append(builder.whole(size_in))
            after.append(builder.whole(size_out))
            continue
        position = builder.factor(min(size_in, size_out))
        window = product(position, builder.whole(max(size_in, size_out) // min(size_in, size_out)))
        before.append(window if size_in > size_out else position)
        after.append(window if size_out > size_in else position)
    linear = "max" not in target_name(node.target)
    return builder.rule([before], [after for _ in result_types(node)], linear=LINEAR if linear else ())


def _spatial_dims(node: fx.Node) -> int:
    digits = re.search(r"([123])d", target_name(node.target))
    assert digits is not None
    return int(digits[1])


def _apart(node: fx.Node, before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Per spatial dim, whether each position has a window of its own."""
    arguments = bind(node)
    name = target_name(node.target)
    whole_steps = [a and b and (a % b == 0 or b % a == 0) for a, b in zip(before, after, strict=True)]
    if "adaptive" in name:
        return [bool(steps) and a >= b for steps, a, b in zip(whole_steps, before, after, strict=True)]
    if "nearest" in name:
        given = arguments.get("scale_factors") or [v for key, v in arguments.items() if key.startswith("scales")]
        scales = given or [None] * len(before)
        return [
            bool(steps) and (scale is None or scale == b / a)
            for steps, scale, a, b in zip(whole_steps, scales, before, after, strict=True)
        ]
    if "pool" not in name:
        return [False] * len(before)
    kernel = _per_dim(arguments["kernel_size"], len(before))
    stride = _per_dim(arguments["stride"] or kernel, len(before))
    padding = _per_dim(arguments["padding"], len(before))
    dilation = _per_dim(arguments.get("dilation", 1), len(before))
    return [
        k == s and not p and (d == 1 or k == 1) and a == b * k
        for k, s, p, d, a, b in zip(kernel, stride, padding, dilation, before, after, strict=True)
    ]


def _per_dim(value: int | Sequence[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def localize_window(node: fx.Node, rank: RankView) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """An output size counts a rank's own positions."""
    out = result_types(node)[0]
    assert out is not None
    shape = out.local_shape(rank.mesh, rank.at)
    if 0 in shape or 0 in operand_type(tensor_operands(node)[0]).local_shape(rank.mesh, rank.at):
        return or_empty(node, rank)
    arguments = bind(node)
    if arguments.get("output_size") is not None:
        arguments["output_size"] = list(shape[-_spatial_dims(node) :])
    return node.target, tuple(arguments.values()), {}


def pixel_shuffle_rule(node: fx.Node) -> FactorRule:
    """``b (c r r) h w -> b c (h r) (w r)``, and back for ``pixel_unshuffle``."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    builder = RuleBuilder()
    batch = builder.dims(shape[:-3])
    coarse, fine = (shape, out) if shape[-1] < out[-1] else (out, shape)
    up = fine[-1] // coarse[-1]
    channels, rows, columns = builder.factor(fine[-3]), builder.factor(coarse[-2]), builder.factor(coarse[-1])
    row, column = builder.whole(up), builder.whole(up)
    packed = [*batch, product(channels, row, column), rows, columns]
    spread = [*batch, channels, product(rows, row), product(columns, column)]
    operand, result = (packed, spread) if coarse is shape else (spread, packed)
    return builder.rule([operand], [result], linear=LINEAR)


define(
    """
    avg_pool1d.default avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_avg_pool3d.default max_pool1d.default max_pool2d.default max_pool3d.default upsample_nearest1d.vec
    upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec upsample_bilinear2d.vec upsample_bicubic2d.vec
    upsample_trilinear3d.vec upsample_nearest1d.default upsample_nearest2d.default upsample_nearest3d.default
    upsample_linear1d.default upsample_bilinear2d.default upsample_bicubic2d.default
    _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec
    _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec
    """,
    window_rule,
    localize=localize_window,
)
define("pixel_shuffle.default pixel_unshuffle.default", pixel_shuffle_rule, localize=or_empty)
