"""The Triton kernel of ``fv.quantize_tokens``: one read and one write, with GELU on the way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .quantization import SMALLEST, Format


@triton.jit
def _value(x, columns, width, GELU: tl.constexpr):
    value = tl.load(x + columns, mask=columns < width, other=0.0).to(tl.float32)
    if GELU:
        # tanh(u) = 1 - 2 / (1 + exp(2 u)), and exp(2 u) = exp2(2 u log2 e)
        u = value * (0.7978845608028654 + 0.035677408136300125 * value * value)
        value = value - value / (1.0 + tl.exp2(2.885390081777927 * u))
    return value


@triton.jit
def _store(codes, columns, width, scaled):
    if codes.dtype.element_ty == tl.int8:
        scaled += tl.where(scaled < 0, -0.5, 0.5)  # the cast to integers cuts
    tl.store(codes + columns, scaled.to(codes.dtype.element_ty), mask=columns < width)


@triton.jit
def _quantize(
    x,
    codes,
    scales,
    width,
    row_stride,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    GELU: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
):
    """One row a program, its columns in two parts, so that a width a little above a power of two wastes little."""
    row = tl.program_id(0).to(tl.int64)
    x += row * row_stride
    codes += row * width
    first = tl.arange(0, FIRST)
    head = _value(x, first, width, GELU)
    largest = tl.max(tl.abs(head), 0)
    if REST:
        rest = FIRST + tl.arange(0, REST)
        tail = _value(x, rest, width, GELU)
        largest = tl.maximum(largest, tl.max(tl.abs(tail), 0))
    scale = tl.maximum(largest, SMALLEST) / LARGEST
    tl.store(scales + row, scale)
    factor = 1.0 / scale
    _store(codes, first, width, head * factor)
    if REST:
        _store(codes, rest, width, tail * factor)


def quantize_rows(x: Tensor, fmt: Format, gelu: bool) -> tuple[Tensor, Tensor]:
    """Codes like ``x`` and scales ``[..., 1]``; see :func:`fastvideo.backends.fused.quantization.quantized`."""
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    codes = torch.empty(x.shape, dtype=fmt.dtype, device=x.device)
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    first = triton.next_power_of_2(width + 1) // 2
    rest = triton.next_power_of_2(width - first) if width > first else 0
    _quantize[(rows.shape[0],)](
        rows,
        codes,
        scales,
        width,
        rows.stride(0),
        LARGEST=fmt.largest,
        SMALLEST=SMALLEST,
        GELU=gelu,
        FIRST=first,
        REST=rest,
        num_warps=4 if width <= 6144 else 8 if width <= 12288 else 16,
    )
    return codes, scales
