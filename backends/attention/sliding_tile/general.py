"""The sliding tile kernel in plain Triton: any GPU, any floating dtype, any head_dim, any strides, a mask of keys.

One program computes a block of queries of one tile. It goes through the runs of keys that its window spans (see
:mod:`runs`), in blocks, with an online softmax.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import runs
from .geometry import Tiling, query_blocks_on

_window_dim = triton.jit(runs.window_dim)
_run_bounds = triton.jit(runs.run_bounds)


@triton.jit
def _kernel(q, k, v, mask, out, blocks, windows, heads, group, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch,
            v_head, v_row, mask_batch, out_batch, out_head, out_row, grid_t, grid_h, grid_w, tile_t, tile_h, tile_w,
            start, length, scale, HAS_MASK: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
            DIM_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    item = blocks + tl.program_id(0) * 5
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    query, rows = tl.load(item), tl.load(item + 1)
    index_t, index_h, index_w = tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)
    tiles_h, tiles_w = tl.cdiv(grid_h, tile_h), tl.cdiv(grid_w, tile_w)
    first_t, number_t = _window_dim(tl.load(windows + head * 3), index_t, tl.cdiv(grid_t, tile_t))
    first_h, number_h = _window_dim(tl.load(windows + head * 3 + 1), index_h, tiles_h)
    first_w, number_w = _window_dim(tl.load(windows + head * 3 + 2), index_w, tiles_w)
    merges_w = number_w == tiles_w
    merges_h = merges_w & (number_h == tiles_h)
    is_text = index_t < 0
    behind = start == 0
    texts = (start > 0).to(tl.int32) + (start + grid_t * grid_h * grid_w < length).to(tl.int32)
    inside = tl.where(merges_h, 1, tl.where(merges_w, number_t, number_t * number_h))
    count = tl.where(is_text, 1, texts + inside)

    row, column, value = tl.arange(0, QUERIES), tl.arange(0, DIM_BLOCK), tl.arange(0, VALUE_BLOCK)
    queries = tl.load(
        q + batch * q_batch + head * q_head + (query + row).to(tl.int64)[:, None] * q_row + column[None, :],
        mask=(row < rows)[:, None] & (column < DIM)[None, :],
        other=0.0,
    )
    k += batch * k_batch + (head // group) * k_head
    v += batch * v_batch + (head // group) * v_head
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    mass = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, VALUE_BLOCK], tl.float32)
    for run in range(count):
        first, keys = _run_bounds(
            run, is_text, texts, behind, first_t, number_t, first_h, number_h, first_w, number_w, merges_h, merges_w,
            grid_t, grid_h, grid_w, tile_t, tile_h, tile_w, start, length,
        )  # fmt: skip
        for at in range(0, keys, KEYS):
            lane = at + tl.arange(0, KEYS)
            here = lane < keys
            position = (first + lane).to(tl.int64)
            key = tl.load(
                k + position[None, :] * k_row + column[:, None], mask=here[None, :] & (column < DIM)[:, None], other=0.0
            )
            scores = tl.dot(queries, key, input_precision=PRECISION) * scale
            if HAS_MASK:
                scores += tl.load(mask + batch * mask_batch + position, mask=here, other=0.0).to(tl.float32)[None, :]
            scores = tl.where(here[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(new_top == float("-inf"), 0.0, new_top)  # every key so far is masked
            weights = tl.exp2(scores - base[:, None])
            fade = tl.exp2(top - base)
            mass = mass * fade + tl.sum(weights, 1)
            top = new_top
            values = tl.load(
                v + position[:, None] * v_row + value[None, :],
                mask=here[:, None] & (value < VALUE_DIM)[None, :],
                other=0.0,
            )
            acc = tl.dot(weights.to(values.dtype), values, acc * fade[:, None], input_precision=PRECISION)
    acc = acc / tl.where(mass == 0.0, 1.0, mass)[:, None]
    tl.store(
        out + batch * out_batch + head * out_head + (query + row).to(tl.int64)[:, None] * out_row + value[None, :],
        acc.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (value < VALUE_DIM)[None, :],
    )


def run(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, windows: Tensor, scale: float, tiling: Tiling, out: Tensor
) -> None:
    """Write the attention into ``out``; arguments as in :func:`.op.sliding_tile_attention`, in tile order.

    Args:
        key_bias: ``float32[batch, keys]``, added to the scores in units of log2; None for none.
        out: ``[batch, heads, queries, value_dim]``, channels next to each other.
    """
    batch, heads, _, dim = q.shape
    value_dim = v.shape[3]
    wide = q.dtype in (torch.float32, torch.float64) or max(dim, value_dim) > 128
    queries, keys = (64, 32) if wide else (128, 64)
    blocks = query_blocks_on(tiling, queries, q.device)
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    bias = q if key_bias is None else key_bias
    _kernel[len(blocks), batch * heads](
        q, k, v, bias, out, blocks, windows, heads, heads // k.shape[1], *q.stride()[:3], *k.stride()[:3],
        *v.stride()[:3], bias.stride(0), *out.stride()[:3], *tiling.grid, *tiling.tile, tiling.start, tiling.length,
        scale * LOG2_E, key_bias is not None, dim, value_dim, max(16, triton.next_power_of_2(dim)),
        max(16, triton.next_power_of_2(value_dim)), queries, keys,
        "ieee" if q.dtype == torch.float32 else "tf32", num_warps=4 if wide else 8, num_stages=2 if wide else 3,
    )  # fmt: skip


LOG2_E = 1.4426950408889634
