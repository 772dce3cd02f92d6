"""The sliding tile kernel for Hopper, in Gluon: a producer warp and two consumer warpgroups.

The producer keeps a ring of key and value blocks filled by TMA. Each consumer has 64 of the 128 queries. It issues the
scores of the next block and the output of the last one together, and computes the softmax while the tensor cores work
(Shah et al., "FlashAttention-3", 2024). The loop over key blocks runs on from one run of neighbouring keys to the next,
so that nothing drains between them, and only the last block of a run is masked.
A consumer without queries, in small tiles at the borders of the grid, leaves the tensor cores to the other one.

Measured on an H200 by ``benchmarks/sliding_tile.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from . import runs
from .geometry import Tiling, query_blocks_on

QUERIES = 128
"""Queries of a program: 64 for each consumer."""
HEAD_DIMS = (64, 128, 256)
_ROWS = gl.constexpr(64)
HIDDEN = -1e30
"""The bias of a hidden key: a block of such must stay finite."""
_SEES_NOTHING = gl.constexpr(HIDDEN / 2)

_window_dim = gluon.jit(runs.window_dim)
_run_bounds = gluon.jit(runs.run_bounds)


@gluon.jit
def _key_runs(work, windows, shape):
    """The arguments of ``run_bounds`` after the run's number, and how many runs there are."""
    grid_t, grid_h, grid_w, tile_t, tile_h, tile_w, start, length = shape
    index_t, index_h, index_w, head = work
    tiles_t = (grid_t + tile_t - 1) // tile_t
    tiles_h = (grid_h + tile_h - 1) // tile_h
    tiles_w = (grid_w + tile_w - 1) // tile_w
    first_t, number_t = _window_dim(gl.load(windows + head * 3), index_t, tiles_t)
    first_h, number_h = _window_dim(gl.load(windows + head * 3 + 1), index_h, tiles_h)
    first_w, number_w = _window_dim(gl.load(windows + head * 3 + 2), index_w, tiles_w)
    merges_w = number_w == tiles_w
    merges_h = merges_w & (number_h == tiles_h)
    is_text = index_t < 0
    has_before = start > 0
    texts = has_before.to(gl.int32) + (start + grid_t * grid_h * grid_w < length).to(gl.int32)
    inside = gl.where(merges_h, 1, gl.where(merges_w, number_t, number_t * number_h))
    count = gl.where(is_text, 1, texts + inside)
    behind = start == 0
    bounds = (
        is_text, texts, behind, first_t, number_t, first_h, number_h, first_w, number_w, merges_h, merges_w,
        grid_t, grid_h, grid_w, tile_t, tile_h, tile_w, start, length,
    )  # fmt: skip
    return count, bounds


@gluon.jit
def _block_count(count, bounds, KEYS: gl.constexpr):
    total = 0
    for run in range(count):
        _, keys = _run_bounds(run, *bounds)
        total += (keys + KEYS - 1) // KEYS
    return total


@gluon.jit
def _produce(q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, q_at, kv_at, count,
             bounds, KEYS: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    q_row, q_column = q_at
    kv_row, kv_column = kv_at
    mbarrier.expect(q_full, q_desc.block_type.nbytes * 2)
    tma.async_copy_global_to_shared(q_desc, [q_row, q_column], q_full, q_smem.index(0))
    tma.async_copy_global_to_shared(q_desc, [q_row + _ROWS, q_column], q_full, q_smem.index(1))
    block = 0
    for run in range(count):
        first, keys = _run_bounds(run, *bounds)
        for at in range(0, keys, KEYS):
            stage = block % STAGES
            phase = (block // STAGES) & 1
            row = kv_row + first + at
            mbarrier.wait(k_free.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(k_desc, [row, kv_column], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_free.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, [row, kv_column], v_full.index(stage), v_smem.index(stage))
            block += 1


@gluon.jit
def _mask_keys(scores, valid, KEYS: gl.constexpr, layout: gl.constexpr):
    columns = gl.arange(0, KEYS, gl.SliceLayout(0, layout))
    return gl.where((columns < valid)[None, :], scores, float("-inf"))


@gluon.jit
def _add_bias(scores, bias, valid, KEYS: gl.constexpr, layout: gl.constexpr):
    columns = gl.arange(0, KEYS, gl.SliceLayout(0, layout))
    return scores + gl.load(bias + columns, mask=columns < valid, other=0.0)[None, :]


@gluon.jit
def _give_way(k_full, k_free, v_full, v_free, total, STAGES: gl.constexpr):
    """Release every block unread: the producer waits for both consumers."""
    for block in range(total):
        stage = block % STAGES
        phase = (block // STAGES) & 1
        mbarrier.wait(k_full.index(stage), phase)
        mbarrier.arrive(k_free.index(stage), count=1)
        mbarrier.wait(v_full.index(stage), phase)
        mbarrier.arrive(v_free.index(stage), count=1)


@gluon.jit
def _attend(q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, out, strides, rows, scale, bias,
            biased_runs, total, bounds, WHO: gl.constexpr, KEYS: gl.constexpr, DIM: gl.constexpr, STAGES: gl.constexpr,
            HAS_BIAS: gl.constexpr):  # fmt: skip
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    out_row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)
    dtype: gl.constexpr = q_smem.dtype
    q = q_smem.index(WHO)

    run = 0
    first, left = _run_bounds(0, *bounds)
    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    zero = gl.zeros([_ROWS, KEYS], gl.float32, score_layout)
    scores = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=(scores,))
    mbarrier.arrive(k_free.index(0), count=1)
    if HAS_BIAS:  # noqa: SIM102 - known when the kernel is compiled
        if biased_runs > 0:
            scores = _add_bias(scores, bias + first, left, KEYS, score_layout)
    if left < KEYS:
        scores = _mask_keys(scores, left, KEYS, score_layout)
    top = gl.max(scores, 1)
    weights = gl.exp2(scores * scale - (top * scale)[:, None])
    mass = gl.sum(weights, 1)
    acc = gl.zeros([_ROWS, DIM], gl.float32, out_layout)
    mbarrier.wait(k_full.index(1), 0, pred=total > 1)
    packed = gl.convert_layout(weights.to(dtype), weight_layout)

    for block in range(1, total):
        left -= KEYS
        first += KEYS
        if left <= 0:
            run += 1
            first, left = _run_bounds(run, *bounds)
        stage = block % STAGES
        last = (block - 1) % STAGES
        scores_soon = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(last), ((block - 1) // STAGES) & 1)
        acc_soon = warpgroup_mma(packed, v_smem.index(last), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=(scores_soon,))
        mbarrier.arrive(k_free.index(stage), count=1)
        if HAS_BIAS:  # noqa: SIM102
            if run < biased_runs:
                scores = _add_bias(scores, bias + first, left, KEYS, score_layout)
        if left < KEYS:
            scores = _mask_keys(scores, left, KEYS, score_layout)
        new_top = gl.maximum(top, gl.max(scores, 1))
        fade = gl.exp2((top - new_top) * scale)
        weights = gl.exp2(scores * scale - (new_top * scale)[:, None])
        mass = mass * fade + gl.sum(weights, 1)
        top = new_top
        # Waiting for the keys first ends a basic block, or the assembler would put the softmax behind the second wait.
        mbarrier.wait(k_full.index((block + 1) % STAGES), ((block + 1) // STAGES) & 1, pred=block + 1 < total)
        acc, weights, mass = warpgroup_mma_wait(0, deps=(acc_soon, weights, mass))
        mbarrier.arrive(v_free.index(last), count=1)
        acc = acc * gl.convert_layout(fade, out_row_layout)[:, None]
        packed = gl.convert_layout(weights.to(dtype), weight_layout)

    last = (total - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((total - 1) // STAGES) & 1)
    acc_soon = warpgroup_mma(packed, v_smem.index(last), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc_soon,))
    acc = acc / gl.convert_layout(mass, out_row_layout)[:, None]
    if HAS_BIAS:  # of queries that see no key
        acc = gl.where((gl.convert_layout(top, out_row_layout) > _SEES_NOTHING)[:, None], acc, 0.0)
    out_row, out_column = strides
    PER_ROW: gl.constexpr = 32 if DIM == 256 else DIM // 8
    store_layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // PER_ROW, PER_ROW], [4, 1], [1, 0])
    result = gl.convert_layout(acc.to(dtype), store_layout)
    row = gl.arange(0, _ROWS, gl.SliceLayout(1, store_layout)) + WHO * _ROWS
    column = gl.arange(0, DIM, gl.SliceLayout(0, store_layout))
    pointers = out + row.to(gl.int64)[:, None] * out_row + column[None, :] * out_column
    gl.store(pointers, result, mask=(row < rows)[:, None])


@gluon.jit
def _consume(q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, out, strides, rows, scale, bias,
             biased_runs, count, bounds, WHO: gl.constexpr, KEYS: gl.constexpr, DIM: gl.constexpr, STAGES: gl.constexpr,
             HAS_BIAS: gl.constexpr):  # fmt: skip
    total = _block_count(count, bounds, KEYS)
    if WHO == 0 or rows > _ROWS:
        _attend(q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, out, strides, rows, scale, bias,
                biased_runs, total, bounds, WHO, KEYS, DIM, STAGES, HAS_BIAS)  # fmt: skip
    else:
        _give_way(k_full, k_free, v_full, v_free, total, STAGES)


@gluon.jit
def _kernel(q_desc, k_desc, v_desc, out, bias, grid_biased, blocks, windows, heads, block_count, text_blocks, group,
            q_batch, q_head, q_channel, kv_batch, kv_head, kv_channel, out_batch, out_head, out_row, grid_t, grid_h,
            grid_w, tile_t, tile_h, tile_w, start, length, scale, KEYS: gl.constexpr, DIM: gl.constexpr,
            STAGES: gl.constexpr, HAS_BIAS: gl.constexpr):  # fmt: skip
    number = gl.program_id(0)
    # Text first: it attends to everything. Then head by head, so that neighbouring tiles find their keys in the cache.
    many = gl.num_programs(0) // block_count * text_blocks
    in_text = number < many
    of_each = gl.where(in_text, text_blocks, block_count - text_blocks)
    rest = gl.where(in_text, number, number - many)
    sample = rest // of_each
    item = blocks + (rest % of_each + gl.where(in_text, 0, text_blocks)) * 5
    head, batch = sample % heads, sample // heads
    query, rows = gl.load(item), gl.load(item + 1)
    work = (gl.load(item + 2), gl.load(item + 3), gl.load(item + 4), head)
    shape = (grid_t, grid_h, grid_w, tile_t, tile_h, tile_w, start, length)
    count, bounds = _key_runs(work, windows, shape)
    biased_runs = 0
    if HAS_BIAS:  # mostly it is text alone that is masked: the runs outside the grid, which come first
        bias += batch.to(gl.int64) * length
        biased_runs = gl.where(gl.load(grid_biased + batch) != 0, count, gl.where(bounds[0], 1, bounds[1]))
    q_at = (batch * q_batch + head * q_head + query, head * q_channel)
    kv_at = (batch * kv_batch + head // group * kv_head, head // group * kv_channel)
    out += batch.to(gl.int64) * out_batch + head.to(gl.int64) * out_head + query.to(gl.int64) * out_row

    q_smem = gl.allocate_shared_memory(q_desc.dtype, [2, _ROWS, DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [STAGES, KEYS, DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [STAGES, KEYS, DIM], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)
    fence_async_shared()
    strides = (out_row, 1)
    gl.warp_specialize(
        [
            (_consume, (q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, out, strides, rows, scale,
                        bias, biased_runs, count, bounds, 0, KEYS, DIM, STAGES, HAS_BIAS)),
            (_consume, (q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, out, strides, rows, scale,
                        bias, biased_runs, count, bounds, 1, KEYS, DIM, STAGES, HAS_BIAS)),
            (_produce, (q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, q_full, k_full, k_free, v_full, v_free, q_at,
                        kv_at, count, bounds, KEYS, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def supports(q: Tensor, v: Tensor) -> bool:
    """Whether this kernel can run: on a Hopper GPU, in half precision, with a head_dim that it is written for."""
    on_hopper = q.device.type == "cuda" and torch.cuda.get_device_capability(q.device)[0] == 9
    halves = q.dtype in (torch.float16, torch.bfloat16)
    return on_hopper and halves and q.shape[3] in HEAD_DIMS and v.shape[3] == q.shape[3]


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    windows: Tensor,
    scale: float,
    tiling: Tiling,
    out: Tensor,
) -> None:
    """Write the attention into ``out``; arguments as in :func:`.general.run`."""
    batch, heads, _, dim = q.shape
    keys = 64 if dim == 256 else 128
    (queries, q_at), (keys_, kv_at), (values, v_at) = (_as_matrix(x) for x in (q, k, v))
    if kv_at != v_at:
        (keys_, kv_at), (values, v_at) = (_as_matrix(x.contiguous()) for x in (k, v))
    dtype = gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16
    blocks = query_blocks_on(tiling, QUERIES, q.device)
    texts = sum(-(-size // QUERIES) for size in (tiling.start, tiling.length - tiling.stop))
    bias, grid_biased = blocks, blocks
    if key_bias is not None:  # in the units of unscaled scores
        bias = (key_bias / (scale * LOG2_E)).clamp_(min=HIDDEN)
        grid_biased = (key_bias[:, tiling.start : tiling.stop] != 0).any(1).to(torch.int32)

    def descriptor(x: Tensor, rows: int) -> TensorDescriptor:
        shape = [rows, dim]
        return TensorDescriptor.from_tensor(x, shape, gl.NVMMASharedLayout.get_default_for(shape, dtype))

    _kernel[(len(blocks) * batch * heads,)](
        descriptor(queries, 64), descriptor(keys_, keys), descriptor(values, keys), out, bias, grid_biased, blocks,
        windows, heads, len(blocks), texts, heads // k.shape[1], *q_at, *kv_at, *out.stride()[:3], *tiling.grid,
        *tiling.tile, tiling.start, tiling.length, scale * LOG2_E, KEYS=keys, DIM=dim, STAGES=2,
        HAS_BIAS=key_bias is not None, num_warps=4,
    )  # fmt: skip


def _as_matrix(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """``[batch, heads, rows, dim]`` as a matrix, and what a batch and a head add to its row, and a head to its column.

    It is ``[batch · rows, heads · dim]`` where tokens are major in memory, ``[batch · heads · rows, dim]`` else.
    """
    batch, heads, rows, dim = x.shape
    by_token = x.transpose(1, 2)
    if by_token.is_contiguous():
        return by_token.reshape(batch * rows, heads * dim), (rows, 0, dim)
    return x.reshape(batch * heads * rows, dim), (heads * rows, rows, 0)


LOG2_E = 1.4426950408889634
