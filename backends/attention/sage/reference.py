"""Our kernel's attention in plain PyTorch: the same codes and scales, for any device."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_BLOCK = 64
KEY_BLOCK = 128
LARGEST_INT8, LARGEST_FP8 = 127.0, 448.0
WEIGHT_EXPONENT = 8.5
"""Attention weights are stored as e4m3 codes times two to the minus this, so that the largest, one, nears 448."""
SMALLEST = 1e-20
"""The least magnitude that is divided by, so that rows of zeros have a scale."""
_CHUNK = 1024


def hadamard(size: int, like: Tensor) -> Tensor:
    """The orthonormal Hadamard matrix of a power of two (Sylvester's construction)."""
    matrix = like.new_ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    scaled: Tensor = matrix / size**0.5
    return scaled


def padded_head_dim(head_dim: int) -> int:
    """The power of two in which a head is stored, the rest zeros."""
    return 64 if head_dim <= 64 else 128


def quantized_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention whose products are those of 8-bit codes.

    Queries and keys lose the mean of the keys, are rotated, and become int8: queries with one scale a token, keys with
    one per :data:`KEY_BLOCK` tokens. Weights become e4m3; values lose their mean and become e4m3 with one scale a
    channel. All scales belong to one head of one sample.

    Args:
        q: ``[batch, heads, queries, head_dim]``.
        k: ``[batch, kv_heads, keys, head_dim]``.
        v: ``[batch, kv_heads, keys, head_dim]``.
        scale: factor of the scores.
    """
    wide = torch.float64 if q.dtype is torch.float64 else torch.float32
    groups, head_dim = q.shape[1] // k.shape[1], q.shape[3]
    size = padded_head_dim(head_dim)
    turn = hadamard(size, q.new_empty(0, dtype=wide))[:head_dim]
    keys = _blockwise(_smoothed(k.to(wide))[0].to(q.dtype).to(wide) @ turn).repeat_interleave(groups, 1)
    queries = q.to(wide) @ turn
    step = queries.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST_INT8
    queries = (queries / step).round() * step
    centred, mean = _smoothed(v.to(wide))
    channel = centred.abs().amax(2, keepdim=True).clamp_min(SMALLEST) / LARGEST_FP8
    values = (_fp8(centred / channel) * channel).repeat_interleave(groups, 1)
    mean = mean.repeat_interleave(groups, 1)
    parts = []
    for chunk in torch.split(queries, _CHUNK, 2):
        scores = chunk @ keys.mT * scale
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        coded = _fp8(weights * 2**WEIGHT_EXPONENT) * 2**-WEIGHT_EXPONENT
        parts.append(coded @ values / weights.sum(-1, keepdim=True) + mean)
    return torch.cat(parts, 2).to(q.dtype)


def _smoothed(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(2, keepdim=True)
    return x - mean, mean


def _blockwise(keys: Tensor) -> Tensor:
    """Rounded to int8 codes with one scale per block of tokens."""
    rounded = []
    for block in torch.split(keys, KEY_BLOCK, 2):
        step = block.abs().amax((2, 3), keepdim=True).clamp_min(SMALLEST) / LARGEST_INT8
        rounded.append((block / step).round() * step)
    return torch.cat(rounded, 2)


def _fp8(x: Tensor) -> Tensor:
    return x.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn).to(x.dtype)
