"""Triton kernels that make 8-bit codes of queries, keys and values; each reads its operand once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import LARGEST_FP8, SMALLEST, padded_head_dim

ROWS = 64
"""Tokens that a program reads at a time."""
_STEPS = 8


@triton.jit
def _statistics(
    x, out, tokens, channels, heads, chunks, sb, sh, st, D: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr
):
    """Sum, largest and smallest value of every channel over one chunk of the tokens of one head."""
    chunk = tl.program_id(0)
    head = tl.program_id(1)
    x += (head // heads).to(tl.int64) * sb + (head % heads).to(tl.int64) * sh
    d = tl.arange(0, D)
    total = tl.zeros([D], tl.float32)
    high = tl.full([D], -float("inf"), tl.float32)
    low = tl.full([D], float("inf"), tl.float32)
    for step in range(STEPS):
        t = (chunk * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (t < tokens)[:, None] & (d < channels)[None, :]
        value = tl.load(x + t[:, None].to(tl.int64) * st + d[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(value, 0)
        high = tl.maximum(high, tl.max(tl.where(inside, value, -float("inf")), 0))
        low = tl.minimum(low, tl.min(tl.where(inside, value, float("inf")), 0))
    out += (head * chunks + chunk) * 3 * D + d
    tl.store(out, total)
    tl.store(out + D, high)
    tl.store(out + 2 * D, low)


@triton.jit
def _turned(value, D: tl.constexpr):
    """Rows times the Hadamard matrix, whose entry (i, j) is minus one where i and j share an odd number of bits."""
    d = tl.arange(0, D)
    shared = d[:, None] & d[None, :]
    shared ^= shared >> 4
    shared ^= shared >> 2
    shared ^= shared >> 1
    return tl.dot(value, (1 - 2 * (shared & 1)).to(value.dtype))


@triton.jit
def _quantize_rows(
    x,
    mean,
    scales,
    codes,
    factor,
    tokens,
    channels,
    heads,
    rows,
    sb,
    sh,
    st,
    cb,
    ch,
    ct,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    SMOOTH: tl.constexpr,
    GIVEN: tl.constexpr,
    PER_BLOCK: tl.constexpr,
):
    """Rotated codes of one block of tokens. ``scales`` are read, one a head, or found and written times ``factor``."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    batch, within = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    x += batch * sb + within * sh
    codes += batch * cb + within * ch
    d = tl.arange(0, D)
    t = block * ROWS + tl.arange(0, ROWS)
    inside = (t < tokens)[:, None] & (d < channels)[None, :]
    value = tl.load(x + t[:, None].to(tl.int64) * st + d[None, :], mask=inside, other=0.0)
    if SMOOTH:
        value = tl.where(inside, value.to(tl.float32) - tl.load(mean + head * D + d)[None, :], 0.0).to(value.dtype)
    turned = _turned(value, D)
    if GIVEN:
        code = (turned / tl.load(scales + head)).to(codes.dtype.element_ty)
        tl.store(codes + t[:, None].to(tl.int64) * ct + d[None, :], code, mask=(t < tokens)[:, None])
    else:
        largest = tl.max(tl.abs(turned), 1)
        if PER_BLOCK:
            step = tl.maximum(tl.max(largest, 0), 1e-20) / 127.0
            tl.store(scales + head * (rows // ROWS) + block, step * factor)
            scaled = turned / step
        else:
            step = tl.maximum(largest, 1e-20) / 127.0
            tl.store(scales + head * rows + t, step * factor)
            scaled = turned / step[:, None]
        code = (scaled + tl.where(scaled < 0, -0.5, 0.5)).to(codes.dtype.element_ty)
        tl.store(codes + t[:, None].to(tl.int64) * ct + d[None, :], code)


@triton.jit
def _quantize_values(
    x,
    mean,
    scales,
    codes,
    tokens,
    channels,
    heads,
    rows,
    sb,
    sh,
    st,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Codes of one block of tokens; transposed ones hold the tokens in the order of :func:`kernel._weights_order`."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    x += (head // heads).to(tl.int64) * sb + (head % heads).to(tl.int64) * sh
    d = tl.arange(0, D)
    place = tl.arange(0, ROWS)
    token = place
    if TRANSPOSED:
        token = (place // 16) * 16 + (place // 2) % 2 * 8 + (place // 4) % 4 * 2 + place % 2
    t = block * ROWS + token
    inside = (t < tokens)[:, None] & (d < channels)[None, :]
    value = tl.load(x + t[:, None].to(tl.int64) * st + d[None, :], mask=inside, other=0.0).to(tl.float32)
    value = (value - tl.load(mean + head * D + d)[None, :]) / tl.load(scales + head * D + d)[None, :]
    code = tl.where(inside, value, 0.0).to(codes.dtype.element_ty)
    if TRANSPOSED:
        at = codes + (head * D + d)[:, None].to(tl.int64) * rows + (block * ROWS + place)[None, :]
        tl.store(at, tl.trans(code))
    else:
        row = ((head // heads).to(tl.int64) * tokens + t) * heads + head % heads
        tl.store(codes + row[:, None] * D + d[None, :], code, mask=(t < tokens)[:, None])


@dataclass(frozen=True)
class Statistics:
    """Of every channel of every head: ``[batch * heads, padded head_dim]``, fp32.

    Attributes:
        mean: over the tokens.
        high: the largest value.
        low: the smallest.
    """

    mean: Tensor
    high: Tensor
    low: Tensor

    @property
    def radius(self) -> Tensor:
        """How far values are from their mean at most."""
        return torch.maximum(self.high - self.mean, self.mean - self.low).clamp_min(SMALLEST)


def statistics(x: Tensor) -> Statistics:
    """Statistics of ``[batch, heads, tokens, channels]`` over the tokens."""
    batch, heads, tokens, channels = x.shape
    size = padded_head_dim(channels)
    chunks = triton.cdiv(tokens, ROWS * _STEPS)
    parts = torch.empty(batch * heads, chunks, 3, size, device=x.device)
    _statistics[(chunks, batch * heads)](
        x, parts, tokens, channels, heads, chunks, *x.stride()[:3], D=size, ROWS=ROWS, STEPS=_STEPS
    )
    mean = parts[:, :, 0].sum(1) / tokens
    high, low = parts[:, :, 1].amax(1), parts[:, :, 2].amin(1)
    if size > channels:  # channels that pad a head have no values
        high[:, channels:], low[:, channels:] = 0.0, 0.0
    return Statistics(mean, high, low)


def int8_rows(x: Tensor, mean: Tensor | None, block: int, factor: float, per_block: bool) -> tuple[Tensor, Tensor]:
    """Rotated int8 codes ``[batch * heads * rows, size]`` and scales times ``factor``, of ``rows`` a multiple of block.

    Args:
        x: ``[batch, heads, tokens, channels]``.
        mean: what is subtracted, ``[batch * heads, size]``.
        block: tokens of one program, and of one scale where ``per_block``; otherwise every token has its own.
        factor: what scales are multiplied by, besides the rotation's.
        per_block: see ``block``.
    """
    batch, heads, tokens, channels = x.shape
    size, rows = padded_head_dim(channels), triton.cdiv(tokens, block) * block
    codes = torch.empty(batch * heads * rows, size, dtype=torch.int8, device=x.device)
    scales = torch.empty(batch * heads * (rows // block if per_block else rows), device=x.device)
    _quantize_rows[(rows // block, batch * heads)](
        x,
        mean,
        scales,
        codes,
        factor * size**-0.5,
        tokens,
        channels,
        heads,
        rows,
        *x.stride()[:3],
        heads * rows * size,
        rows * size,
        size,
        D=size,
        ROWS=block,
        SMOOTH=mean is not None,
        GIVEN=False,
        PER_BLOCK=per_block,
    )
    return codes, scales


def fp8_rows(x: Tensor, mean: Tensor | None, scales: Tensor) -> Tensor:
    """Rotated e4m3 codes ``[batch, tokens, heads, channels]`` with one scale a head, given for orthonormal rotation."""
    batch, heads, tokens, channels = x.shape
    codes = torch.empty(batch, tokens, heads, channels, dtype=torch.float8_e4m3fn, device=x.device)
    _quantize_rows[(triton.cdiv(tokens, ROWS), batch * heads)](
        x,
        mean,
        scales * channels**0.5,
        codes,
        1.0,
        tokens,
        channels,
        heads,
        tokens,
        *x.stride()[:3],
        tokens * heads * channels,
        channels,
        heads * channels,
        D=channels,
        ROWS=ROWS,
        SMOOTH=mean is not None,
        GIVEN=True,
        PER_BLOCK=False,
    )
    return codes


def fp8_values(x: Tensor, mean: Tensor, scales: Tensor, block: int, transposed: bool) -> Tensor:
    """E4m3 codes of values without their mean: ``[batch, tokens, heads, size]``.

    Transposed: ``[batch * heads * size, rows]``, where ``rows`` is a multiple of ``block``.
    """
    batch, heads, tokens, channels = x.shape
    size, rows = padded_head_dim(channels), triton.cdiv(tokens, block) * block
    shape = (batch * heads * size, rows) if transposed else (batch, tokens, heads, size)
    codes = torch.empty(shape, dtype=torch.float8_e4m3fn, device=x.device)
    _quantize_values[(rows // block, batch * heads)](
        x,
        mean,
        scales,
        codes,
        tokens,
        channels,
        heads,
        rows,
        *x.stride()[:3],
        D=size,
        ROWS=block,
        TRANSPOSED=transposed,
    )
    return codes


def value_scales(of: Statistics) -> Tensor:
    """One scale a channel."""
    return of.radius / LARGEST_FP8


def channels_together(x: Tensor) -> Tensor:
    """``x`` with the channels of a head next to each other in memory, as the kernels read them."""
    return x if x.stride(3) == 1 else x.contiguous()
