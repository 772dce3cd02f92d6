"""Expansions of norms and reductions: what they are as sums over the dims that ranks may hold in pieces.

Sums are taken in the dtype in which PyTorch accumulates, and squares around the mean (two passes, as safe numerically
as the ops themselves), so that nothing is lost against the plain op.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from ..graph import bind, operand_type, result_types, tensor_operands
from .define import aten, operand_shapes, reduced_dims
from .registry import Emit


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which PyTorch sums values of ``dtype``."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _cast(emit: Emit, value: fx.Node, dtype: torch.dtype) -> fx.Node:
    return value if operand_type(value).dtype == dtype else emit(aten.to.dtype, value, dtype)


def _mean(emit: Emit, value: fx.Node, dims: Sequence[int], keep: bool) -> fx.Node:
    count = math.prod(operand_type(value).shape[dim] for dim in dims)
    return emit(aten.div.Scalar, emit(aten.sum.dim_IntList, value, list(dims), keep), count)


def _standardized(emit: Emit, value: fx.Node, dims: Sequence[int], eps: float) -> tuple[fx.Node, fx.Node, fx.Node]:
    """``(x − mean) · rstd``, mean and rstd, the latter two with ``dims`` kept."""
    mean = _mean(emit, value, dims, True)
    centred = emit(aten.sub.Tensor, value, mean)
    variance = _mean(emit, emit(aten.square.default, centred), dims, True)
    rstd = emit(aten.rsqrt.default, emit(aten.add.Scalar, variance, eps))
    return emit(aten.mul.Tensor, centred, rstd), mean, rstd


def _affine(emit: Emit, value: fx.Node, weight: fx.Node | None, bias: fx.Node | None) -> fx.Node:
    if weight is not None:
        value = emit(aten.mul.Tensor, value, weight)
    return value if bias is None else emit(aten.add.Tensor, value, bias)


def layer_norm(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """``layer_norm`` and ``native_layer_norm``."""
    arguments = bind(node)
    operand = tensor_operands(node)[0]
    kind = operand_type(operand)
    rank = len(kind.shape)
    dims = list(range(rank - len(arguments["normalized_shape"]), rank))
    value = _cast(emit, operand, accumulated(kind.dtype))
    normal, mean, rstd = _standardized(emit, value, dims, arguments["eps"])
    normal = _affine(emit, normal, arguments["weight"], arguments["bias"])
    results = zip((normal, mean, rstd), result_types(node), strict=False)
    return [_cast(emit, found, wanted.dtype) for found, wanted in results if wanted is not None]


def rms_norm(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """``x · rsqrt(mean(x²) + eps)``; without ``eps`` the least one of the dtype that sums are taken in."""
    arguments = bind(node)
    operand = tensor_operands(node)[0]
    kind = operand_type(operand)
    rank = len(kind.shape)
    dims = list(range(rank - len(arguments["normalized_shape"]), rank))
    value = _cast(emit, operand, accumulated(kind.dtype))
    eps = torch.finfo(accumulated(kind.dtype)).eps if arguments["eps"] is None else arguments["eps"]
    square = _mean(emit, emit(aten.square.default, value), dims, True)
    rstd = emit(aten.rsqrt.default, emit(aten.add.Scalar, square, eps))
    normal = _affine(emit, emit(aten.mul.Tensor, value, rstd), arguments["weight"], None)
    return [_cast(emit, normal, kind.dtype)]


def group_norm(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """``b (g c) …`` over ``c …``; ``instance_norm`` is a group a channel."""
    arguments = bind(node)
    operand = tensor_operands(node)[0]
    kind = operand_type(operand)
    batch, channels, *positions = kind.shape
    groups = arguments.get("num_groups", channels)
    spread = [1, channels, *(1 for _ in positions)]

    def per_channel(value: fx.Node | None) -> fx.Node | None:
        return None if value is None else emit(aten.reshape.default, value, spread)

    value = _cast(emit, operand, accumulated(kind.dtype))
    grouped = emit(aten.reshape.default, value, [batch, groups, channels // groups, *positions])
    normal, _, _ = _standardized(emit, grouped, range(2, len(kind.shape) + 1), arguments["eps"])
    normal = emit(aten.reshape.default, normal, list(kind.shape))
    normal = _affine(emit, normal, per_channel(arguments["weight"]), per_channel(arguments["bias"]))
    return [_cast(emit, normal, kind.dtype)]


def mean(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """The sum over all pieces by the global count."""
    operand, dims, keep = _reduction(node)
    wanted = _result_dtype(node)
    value = _cast(emit, operand, accumulated(wanted))
    return [_cast(emit, _mean(emit, value, dims, keep), wanted)]


def variance(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """``var``, ``std`` and both with the mean."""
    operand, dims, keep = _reduction(node)
    arguments = bind(node)
    correction = arguments.get("correction")
    if "unbiased" in arguments:
        correction = int(arguments["unbiased"])
    kind = operand_type(operand)
    value = _cast(emit, operand, accumulated(kind.dtype))
    middle = _mean(emit, value, dims, True)
    square = emit(aten.square.default, emit(aten.sub.Tensor, value, middle))
    count = math.prod(kind.shape[dim] for dim in dims)
    freedom = max(count - (1 if correction is None else correction), 0)
    spread = emit(aten.div.Scalar, emit(aten.sum.dim_IntList, square, list(dims), keep), freedom)
    name = node.target.__name__  # type: ignore[union-attr]
    if name.startswith("std"):
        spread = emit(aten.sqrt.default, spread)
    results = [spread]
    if "_mean" in name:
        shape = list(operand_type(spread).shape)
        results.append(middle if keep else emit(aten.reshape.default, middle, shape))
    return [_cast(emit, result, kind.dtype) for result in results]


def vector_norm(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """``(Σ |x|ᵖ)^(1/p)`` for p of one and two."""
    operand, dims, keep = _reduction(node)
    wanted = _result_dtype(node)
    value = _cast(emit, operand, accumulated(wanted))
    if norm_order(node) == 2:
        total = emit(aten.sum.dim_IntList, emit(aten.square.default, value), list(dims), keep)
        return [_cast(emit, emit(aten.sqrt.default, total), wanted)]
    return [_cast(emit, emit(aten.sum.dim_IntList, emit(aten.abs.default, value), list(dims), keep), wanted)]


def norm_order(node: fx.Node) -> Any:
    """The p of any norm; two where none is given."""
    arguments = bind(node)
    order = next((arguments[name] for name in ("ord", "p") if name in arguments), None)
    return 2 if order is None else order


def any_or_all(node: fx.Node, emit: Emit) -> list[fx.Node]:
    """By counting those that are true, or false."""
    operand, dims, keep = _reduction(node)
    is_any = node.target.__name__.startswith("any")  # type: ignore[union-attr]
    hit = emit(aten.ne.Scalar if is_any else aten.eq.Scalar, operand, 0)
    total = emit(aten.sum.dim_IntList, hit, list(dims), keep)
    return [_cast(emit, emit(aten.ne.Scalar if is_any else aten.eq.Scalar, total, 0), _result_dtype(node))]


def _reduction(node: fx.Node) -> tuple[fx.Node, list[int], bool]:
    operand = tensor_operands(node)[0]
    rank = len(operand_shapes(node)[0])
    dims: Iterable[int] = reduced_dims(node, rank)
    return operand, sorted(dims), bool(bind(node).get("keepdim", False))


def _result_dtype(node: fx.Node) -> torch.dtype:
    first = result_types(node)[0]
    assert first is not None
    return first.dtype
