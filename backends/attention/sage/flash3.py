"""FlashAttention 3 in fp8, on codes that keep their precision where activations have outliers.

Its kernel takes e4m3 operands with one scale a head. Queries and keys are rotated and keys smoothed, so that no channel
stands out; values lose their mean and get a scale per channel, both of which the result gets back. Scales are powers of
two or bounds, not maxima: e4m3 keeps its precision over fourteen binades.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import quantize
from .reference import LARGEST_FP8, SMALLEST

_PACKAGES = ("flash_attn_interface", "fa3_fwd_interface")
_HOPPER = 9
_HEAD_DIMS = (64, 128)


@lru_cache(maxsize=1)
def _package() -> Any:
    name = next((name for name in _PACKAGES if find_spec(name) is not None), None)
    return importlib.import_module(name) if name else None


def fits(capability: tuple[int, int], head_dim: int) -> bool:
    """Whether FlashAttention 3 is installed and takes this."""
    return capability[0] == _HOPPER and head_dim in _HEAD_DIMS and _package() is not None


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of ``[batch, heads, tokens, channels]`` in fp8."""
    codes, scales, value_scales, value_means = encoded(q, k, v)
    found = _package().flash_attn_func(
        *codes, softmax_scale=scale, q_descale=scales[0], k_descale=scales[1], v_descale=torch.ones_like(scales[1])
    )
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return decoded(out, value_scales, value_means, q.shape[1]).to(q.dtype).transpose(1, 2)


def encoded(q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor], Tensor, Tensor]:
    """What FlashAttention 3 is given.

    Returns:
        Codes of queries, keys and values, ``[batch, tokens, heads, channels]``; scales of queries and of keys,
        ``[batch, kv_heads]``; scales and means of the values, ``[batch, 1, kv_heads, channels]``.
    """
    q, k, v = (quantize.channels_together(x) for x in (q, k, v))
    batch, kv_heads = k.shape[:2]
    of_queries, of_keys, of_values = (quantize.statistics(x) for x in (q, k, v))
    # Rotated, a channel is at most as large as the token is long.
    length = torch.maximum(of_queries.high, -of_queries.low).norm(dim=-1).view(batch, kv_heads, -1).amax(-1)
    query_scales = length.clamp_min(SMALLEST) / LARGEST_FP8
    key_scales = of_keys.radius.norm(dim=-1).view(batch, kv_heads) / LARGEST_FP8
    groups = q.shape[1] // kv_heads
    value_scales = quantize.value_scales(of_values).log2().ceil().exp2()
    codes = [
        quantize.fp8_rows(q, None, query_scales.repeat_interleave(groups, 1).flatten()),
        quantize.fp8_rows(k, of_keys.mean, key_scales.flatten()),
        quantize.fp8_values(v, of_values.mean, value_scales, quantize.ROWS, transposed=False),
    ]
    shape = (batch, 1, kv_heads, v.shape[3])
    return codes, (query_scales, key_scales), value_scales.view(shape), of_values.mean.view(shape)


def decoded(out: Tensor, value_scales: Tensor, value_means: Tensor, heads: int) -> Tensor:
    """The result for the values themselves, from that for their codes: ``[batch, queries, heads, channels]``."""
    groups = heads // value_scales.shape[2]
    factor, mean = (x.repeat_interleave(groups, 2).to(out.dtype) for x in (value_scales, value_means))
    return torch.addcmul(mean, out, factor)
