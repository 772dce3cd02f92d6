"""Our own kernel: int8 scores, e4m3 weights and values, fp32 sums.

Per tile of 64 queries and per 128 keys: scores are an int8 product with exact int32 sums; weights relative to the
running maximum become e4m3 codes; their product with the values' codes starts from zero and is added to the fp32 sums
outside the tensor cores, which keep too few bits for long sums (as in SageAttention2).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import quantize
from .reference import KEY_BLOCK, QUERY_BLOCK, WEIGHT_EXPONENT, padded_head_dim


@triton.jit
def _exp2(x, NATIVE: tl.constexpr):
    if NATIVE:  # without the care for denormal results, which become codes of zero anyway
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.exp2(x)


@triton.jit
def _weights_order(weights, M: tl.constexpr, N: tl.constexpr):
    """Columns in the order in which threads hold them as operands of the next product, so that none has to move.

    A thread gets pairs of neighbouring columns of a product's result, and needs four neighbours as an operand. The
    values' tokens are stored in the same order.
    """
    return weights.reshape([M, N // 16, 2, 4, 2]).permute(0, 1, 3, 2, 4).reshape([M, N])


@triton.jit
def _attend_block(
    q,
    q_scale,
    keys_at,
    values_at,
    key_scales,
    total,
    highest,
    weight,
    block,
    kv_head,
    blocks,
    keys,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    EXPONENT: tl.constexpr,
    NATIVE: tl.constexpr,
    LAST: tl.constexpr,
):
    k = keys_at.load([(kv_head * blocks + block) * N, 0])
    scores = tl.dot(q, k.T, out_dtype=tl.int32).to(tl.float32)
    if LAST:
        inside = block * N + tl.arange(0, N) < keys
        scores = tl.where(inside[None, :], scores, -1e9)
    step = q_scale * tl.load(key_scales + kv_head * blocks + block)
    new = tl.maximum(highest, tl.max(scores, 1) * step)
    decay = tl.exp2(highest - new)
    weights = _exp2(scores * step[:, None] - (new - EXPONENT)[:, None], NATIVE)
    weight = weight * decay + tl.sum(weights, 1)
    v = values_at.load([kv_head * D, block * N])
    product = tl.dot(_weights_order(weights.to(tl.float8e4nv), M, N), v.T)
    return total * decay[:, None] + product, new, weight


@triton.jit
def _attend(
    queries_at,
    keys_at,
    values_at,
    query_scales,
    key_scales,
    value_scales,
    value_means,
    out,
    queries,
    keys,
    channels,
    heads,
    groups,
    ob,
    oh,
    ot,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    EXPONENT: tl.constexpr,
    NATIVE: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    kv_head = head // groups
    rows = tl.cdiv(queries, M) * M
    blocks = tl.cdiv(keys, N)
    t = tile * M + tl.arange(0, M)
    q = queries_at.load([head * rows + tile * M, 0])
    q_scale = tl.load(query_scales + head * rows + t)
    total = tl.zeros([M, D], tl.float32)
    highest = tl.full([M], -1e30, tl.float32)
    weight = tl.zeros([M], tl.float32)
    full = keys // N
    for block in range(full):
        total, highest, weight = _attend_block(
            q, q_scale, keys_at, values_at, key_scales, total, highest, weight, block, kv_head, blocks, keys,
            D, M, N, EXPONENT, NATIVE, False,
        )  # fmt: skip
    if full < blocks:
        total, highest, weight = _attend_block(
            q, q_scale, keys_at, values_at, key_scales, total, highest, weight, full, kv_head, blocks, keys,
            D, M, N, EXPONENT, NATIVE, True,
        )  # fmt: skip
    d = tl.arange(0, D)
    scale = tl.load(value_scales + kv_head * D + d)
    mean = tl.load(value_means + kv_head * D + d)
    result = total * (1.0 / weight)[:, None] * scale[None, :] + mean[None, :]
    out += (head // heads).to(tl.int64) * ob + (head % heads).to(tl.int64) * oh
    at = out + t[:, None].to(tl.int64) * ot + d[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=(t < queries)[:, None] & (d < channels)[None, :])


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of ``[batch, heads, tokens, channels]``; see :func:`reference.quantized_attention`."""
    q, k, v = (quantize.channels_together(x) for x in (q, k, v))
    batch, heads, queries, channels = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    size = padded_head_dim(channels)
    of_keys, of_values = quantize.statistics(k), quantize.statistics(v)
    value_scales = quantize.value_scales(of_values)
    query_codes, query_scales = quantize.int8_rows(q, None, QUERY_BLOCK, scale / math.log(2), per_block=False)
    key_codes, key_scales = quantize.int8_rows(k, of_keys.mean, KEY_BLOCK, 1.0, per_block=True)
    value_codes = quantize.fp8_values(v, of_values.mean, value_scales, KEY_BLOCK, transposed=True)
    out = torch.empty(batch, queries, heads, channels, dtype=q.dtype, device=q.device).transpose(1, 2)
    _attend[(triton.cdiv(queries, QUERY_BLOCK), batch * heads)](
        TensorDescriptor.from_tensor(query_codes, [QUERY_BLOCK, size]),
        TensorDescriptor.from_tensor(key_codes, [KEY_BLOCK, size]),
        TensorDescriptor.from_tensor(value_codes, [size, KEY_BLOCK]),
        query_scales,
        key_scales,
        value_scales,
        of_values.mean,
        out,
        queries,
        keys,
        channels,
        heads,
        heads // kv_heads,
        *out.stride()[:3],
        D=size,
        M=QUERY_BLOCK,
        N=KEY_BLOCK,
        EXPONENT=WEIGHT_EXPONENT,
        NATIVE=q.device.type == "cuda",
        num_warps=4,
        num_stages=2,
        maxnreg=168,  # three tiles on one multiprocessor of a Hopper GPU
    )
    return out
