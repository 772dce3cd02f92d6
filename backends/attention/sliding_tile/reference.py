"""Sliding tile attention in plain PyTorch: softmax attention under the mask that the definition spells out."""

from __future__ import annotations

import torch
from torch import Tensor

import fastvideo_ir as ir

from .geometry import Tiling

ROWS = 1024
"""Queries at a time: the mask of so many rows exists at once."""


def attended(tiling: Tiling, window: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Which keys the queries of one head attend: ``bool[queries, keys]``.

    Args:
        tiling: the grid and its tiles.
        window: ``int[3]``, in tiles.
        queries: positions in the sequence, in its natural order.
        keys: likewise.
    """
    is_key_of_grid, key_tile = _tile_of(tiling, keys)
    is_query_of_grid, query_tile = _tile_of(tiling, queries)
    near = torch.ones(len(queries), len(keys), dtype=torch.bool, device=queries.device)
    for dim, count in enumerate(tiling.tiles):
        size = int(window[dim])
        first = (query_tile[dim] - size // 2).clamp(0, max(count - size, 0))[:, None]
        near &= (key_tile[dim] >= first) & (key_tile[dim] < first + size)
    return near | ~is_key_of_grid | ~is_query_of_grid[:, None]


def _tile_of(tiling: Tiling, positions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Whether tokens are of the grid, and the index of their tile in each dim."""
    inside = (positions >= tiling.start) & (positions < tiling.stop)
    rest = torch.where(inside, positions - tiling.start, 0)
    coordinates: list[Tensor] = []
    for size in reversed(tiling.grid):
        coordinates.append(rest % size)
        rest = rest // size
    return inside, [at // step for at, step in zip(reversed(coordinates), tiling.tile, strict=True)]


def natural_positions(tiling: Tiling, tiled: bool, device: torch.device) -> Tensor:
    """The natural position of each token of a sequence that is in tile order, or is not."""
    positions = torch.arange(tiling.length, device=device)
    if tiled:
        positions[tiling.start : tiling.stop] = tiling.order().to(device) + tiling.start
    return positions


def sliding_tile_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Tensor,
    mask: Tensor | None,
    scale: float | None,
    tiling: Tiling,
    tiled: bool,
) -> Tensor:
    """The attention, head by head and some rows at a time; arguments as in :func:`.op.sliding_tile_attention`."""
    positions = natural_positions(tiling, tiled, q.device)
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    group = q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        of_head = slice(head // group, head // group + 1)
        for first in range(0, q.shape[2], ROWS):
            rows = slice(first, first + ROWS)
            allowed: Tensor = attended(tiling, windows[head], positions[rows], positions)
            if mask is not None and mask.dtype == torch.bool:
                allowed = allowed & mask
            elif mask is not None:
                allowed = torch.where(allowed, mask, -torch.inf)
            parts = q[:, head : head + 1, rows], k[:, of_head], v[:, of_head]
            out[:, head : head + 1, rows] = ir.ops.attention.attention(*parts, allowed, scale, False)
    return out
