"""The Triton kernel of ``fv.modulated_norm`` and ``fv.add_norm``: one row a program, held in registers throughout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_WIDTH = 16384
"""Longer rows do not fit into the registers of one program."""


@triton.jit
def _channels(base, batch, token, batch_stride, token_stride, columns, inside):
    row = base + batch * batch_stride + token * token_stride
    return tl.load(row + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _normalize(
    x,
    y,
    gate,
    weight,
    bias,
    scale,
    shift,
    total,
    out,
    tokens,
    width,
    eps,
    x_batch,
    x_token,
    y_batch,
    y_token,
    gate_batch,
    gate_token,
    scale_batch,
    scale_token,
    shift_batch,
    shift_token,
    ADD: tl.constexpr,
    GATE: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    RMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = _channels(x, batch, token, x_batch, x_token, columns, inside)
    if ADD:
        added = _channels(y, batch, token, y_batch, y_token, columns, inside)
        if GATE:
            added *= _channels(gate, batch, token, gate_batch, gate_token, columns, inside)
        value += added
        tl.store(total + row * width + columns, value.to(total.dtype.element_ty), mask=inside)
    if not RMS:
        value = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    if WEIGHT:
        value *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if SCALE:
        value *= _channels(scale, batch, token, scale_batch, scale_token, columns, inside)
    if SHIFT:
        value += _channels(shift, batch, token, shift_batch, shift_token, columns, inside)
    tl.store(out + row * width + columns, value.to(out.dtype.element_ty), mask=inside)


def normalize_rows(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    out: Tensor,
    total: Tensor | None = None,
) -> None:
    """Write the norm of ``x``, or of ``x + y · gate``, to ``out``, and that sum to ``total``.

    Args:
        x: ``[batch, tokens, channels]``, as all others but weight and bias, which are ``[channels]``; ``gate``,
            ``scale`` and ``shift`` may be broadcast.
        y: what is added; None for nothing.
        gate: what ``y`` is multiplied by.
        weight: of the norm.
        bias: of the norm.
        scale: what the norm is multiplied by.
        shift: what is then added.
        eps: of the norm.
        rms: whether the mean stays.
        out: contiguous.
        total: contiguous; only where something is added.
    """
    batch, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    rows = [None if v is None else _rows(v, x.shape) for v in (x, y, gate, scale, shift)]
    strides = [stride for v in rows for stride in ((0, 0) if v is None else v.stride()[:2])]
    wide, added, gated, scaled, shifted = rows
    _normalize[(batch * tokens,)](
        wide,
        added,
        gated,
        weight,
        bias,
        scaled,
        shifted,
        total,
        out,
        tokens,
        width,
        eps,
        *strides,
        ADD=y is not None,
        GATE=gate is not None,
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        SCALE=scale is not None,
        SHIFT=shift is not None,
        RMS=rms,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 8 if block <= 8192 else 16,
    )


def _rows(value: Tensor, shape: torch.Size) -> Tensor:
    """``value`` broadcast to ``shape``, with channels next to each other."""
    value = value.expand(*value.shape[:-1], shape[-1])
    return (value if value.stride(-1) == 1 else value.contiguous()).expand(shape)
