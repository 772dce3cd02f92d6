"""``fv_attn.sliding_tile_attn``: attention of each token to the tiles around it, and ``fv_attn.tile_order``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

import fastvideo_ir as ir
from fastvideo_ir.factors import product
from fastvideo_ir.graph import bind, operand_type
from fastvideo_ir.ops.attention import attention_flop_count, attention_flops, empty_result
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import broadcast

from .geometry import Tiling
from .reference import natural_positions, sliding_tile_reference

NAME = "fv_attn.sliding_tile_attn"


@custom_op("fv_attn::sliding_tile_attn")
def sliding_tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Tensor,
    mask: Tensor | None,
    scale: float | None,
    grid: Sequence[int],
    tile: Sequence[int],
    start: int,
    tiled: bool,
) -> Tensor:
    """Softmax attention of each token of a video to the tiles around its own; see :mod:`.geometry` for the definition.

    Args:
        q: ``[batch, heads, tokens, head_dim]``.
        k: ``[batch, kv_heads, tokens, head_dim]``; ``heads`` is a multiple of ``kv_heads``.
        v: ``[batch, kv_heads, tokens, value_dim]``.
        windows: ``int32[heads, 3]``, in tiles of time, height and width; less than one is one.
        mask: boolean (True: attend) or additive mask of the keys, ``[batch or 1, 1, 1, tokens]``, in their order.
        scale: positive factor of the scores; ``head_dim ** -0.5`` where None.
        grid: tokens of the video in time, height and width.
        tile: tokens of a tile in time, height and width.
        start: position of the video's first token; what is before and behind it is text, which sees and is seen by all.
        tiled: whether the video's tokens are in tile order; otherwise they are in the order of the grid.

    Returns:
        ``[batch, heads, tokens, value_dim]`` in the order of the queries, stored with the heads next to the channels.
    """
    if q.numel() == 0:
        return empty_result(q, v)
    tiling = _tiling(grid, tile, start, q.shape[2])
    windows = windows.clamp_min(1)  # without a key a kernel would wait for one
    if q.device.type != "cuda":
        out = empty_result(q, v)
        return out.copy_(sliding_tile_reference(q, k, v, windows, mask, scale, tiling, tiled))
    if not tiled:
        order = natural_positions(tiling, True, q.device)
        q, k, v = (x.index_select(2, order) for x in (q, k, v))
        mask = mask.index_select(3, order) if mask is not None else None
    out = _run_kernel(q, k, v, windows, mask, scale, tiling)
    return out if tiled else empty_result(q, v).index_copy_(2, order, out)


def _run_kernel(
    q: Tensor, k: Tensor, v: Tensor, windows: Tensor, mask: Tensor | None, scale: float | None, tiling: Tiling
) -> Tensor:
    from . import general, hopper  # Triton is there where CUDA is

    out = empty_result(q, v)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    windows = windows.to(torch.int32).contiguous()
    run = hopper.run if hopper.supports(q, v) else general.run
    run(q, k, v, _key_bias(mask, q), windows, factor, tiling, out)
    return out


def _key_bias(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A mask of keys as ``float32[batch, keys]``, in units of log2."""
    if mask is None:
        return None
    rows = mask.expand(q.shape[0], 1, 1, q.shape[2])[:, 0, 0]
    if rows.dtype == torch.bool:
        return torch.zeros(rows.shape, device=q.device).masked_fill_(~rows, -math.inf)
    return (rows.float() * math.log2(math.e)).contiguous()


@sliding_tile_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Tensor,
    mask: Tensor | None,
    scale: float | None,
    grid: Sequence[int],
    tile: Sequence[int],
    start: int,
    tiled: bool,
) -> Tensor:
    return empty_result(q, v)


register_flop_formula(torch.ops.fv_attn.sliding_tile_attn)(attention_flop_count)


def sliding_tile_rule(node: fx.Node) -> ir.FactorRule:
    """``b h s d, b h t d, b h t e, h w, … -> b h s e``: batch and heads are parallel.

    Tokens are whole, since a tile's place is its position. So are the channels of the values: ranks that share a head
    would each compute all of its scores.
    """
    arguments = bind(node)
    q, k, v = (operand_type(arguments[name]).shape for name in ("q", "k", "v"))
    builder = ir.RuleBuilder()
    batch, kv_heads = builder.factor(q[0]), builder.factor(k[1])
    heads = product(kv_heads, builder.factor(q[1] // k[1])) if q[1] != k[1] else kv_heads
    queries, keys = builder.whole(q[2]), builder.whole(k[2])
    channels, values = builder.whole(q[3]), builder.whole(v[3])
    operands = [
        [batch, heads, queries, channels],
        [batch, kv_heads, keys, channels],
        [batch, kv_heads, keys, values],
        [heads, builder.whole(3)],
    ]
    if arguments["mask"] is not None:
        operands.append(
            broadcast(operand_type(arguments["mask"]).shape, [batch, ((),), ((),), keys], (q[0], 1, 1, k[2]))
        )
    return builder.rule(operands, [[batch, heads, queries, values]], linear=((2,),))


sliding_tile_op = torch.ops.fv_attn.sliding_tile_attn.default
ir.ops.registry.register(
    ir.OpDef(sliding_tile_op, NAME, rule=sliding_tile_rule, flops=attention_flops, first=ir.Stage.CANONICAL)
)


@custom_op("fv_attn::tile_order")
def tile_order(
    grid: Sequence[int], tile: Sequence[int], start: int, length: int, inverse: bool, device: torch.device
) -> Tensor:
    """The permutation that brings a sequence into tile order, or back: ``int64[length]``; text stays where it is.

    ``x.index_select(dim, tile_order(…))`` is in tile order.
    """
    order = natural_positions(_tiling(grid, tile, start, length), True, torch.device(device))
    return order.argsort() if inverse else order


@tile_order.register_fake
def _(grid: Sequence[int], tile: Sequence[int], start: int, length: int, inverse: bool, device: torch.device) -> Tensor:
    return torch.empty(length, dtype=torch.int64, device=device)


tile_order_op = torch.ops.fv_attn.tile_order.default
ir.ops.registry.register(ir.OpDef(tile_order_op, "fv_attn.tile_order", first=ir.Stage.CANONICAL))


def _tiling(grid: Sequence[int], tile: Sequence[int], start: int, length: int) -> Tiling:
    return Tiling((grid[0], grid[1], grid[2]), (tile[0], tile[1], tile[2]), start, length)
