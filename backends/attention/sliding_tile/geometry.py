"""Token grids, their tiles, and which key tiles a query tile attends to.

The grid has ``T × H × W`` tokens; tiles of ``a × b × c`` cover it from its first corner, so that those at the far
borders are smaller where the tile does not divide the grid. In *tile order* the tokens of a tile lie next to each
other: tiles major to minor in t, h, w, then the tokens within a tile likewise. Nothing is padded.

Along each dim with ``n`` tiles, a query tile ``i`` attends the ``min(w, n)`` key tiles from
``clamp(i - w // 2, 0, max(n - w, 0))`` on: the window slides tile by tile with the query tile at its centre, and is
clamped at the borders, so that every query sees the full window. Tokens outside the grid (text) attend to all tokens,
and all tokens attend to them.

Source: Zhang et al., "Fast Video Generation with Sliding Tile Attention" (2025); there tiles divide the grid and
windows are odd, and both definitions agree.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class TokenGrid:
    """Where in a sequence of tokens a video sits.

    Attributes:
        grid: tokens in time, height and width, major to minor.
        start: position of the grid's first token in the sequence.
        length: tokens in the sequence, those outside the grid among them.
    """

    grid: Triple
    start: int
    length: int


@dataclass(frozen=True)
class Tiling:
    """A token grid inside a sequence, cut into tiles.

    Attributes:
        grid: tokens in time, height and width.
        tile: tokens of a tile in time, height and width.
        start: position of the grid's first token in the sequence.
        length: tokens in the sequence, those outside the grid among them.
    """

    grid: Triple
    tile: Triple
    start: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens in the grid."""
        return math.prod(self.grid)

    @property
    def stop(self) -> int:
        """Position after the grid's last token."""
        return self.start + self.tokens

    @property
    def tiles(self) -> Triple:
        """Tiles in time, height and width."""
        t, h, w = (math.ceil(size / step) for size, step in zip(self.grid, self.tile, strict=True))
        return t, h, w

    def order(self) -> Tensor:
        """Positions of the grid's tokens within the grid, in tile order: ``int64[tokens]``."""
        return _order(self.grid, self.tile)

    def density(self, windows: Tensor) -> float:
        """Fraction of all query-key pairs that are attended, averaged over the heads.

        Args:
            windows: ``int[heads, 3]``, in tiles.
        """
        total = 0.0
        for window in windows.tolist():
            pairs = math.prod(_attended(*dim) for dim in zip(self.grid, self.tile, window, strict=True))
            text = self.length - self.tokens
            total += pairs + text * self.length + text * self.tokens
        return total / (len(windows) * self.length**2)


def window_start(index: int, window: int, count: int) -> int:
    """The first key tile of query tile ``index`` along a dim of ``count`` tiles."""
    return min(max(index - window // 2, 0), max(count - window, 0))


def _attended(size: int, tile: int, window: int) -> int:
    """Query-key pairs along one dim."""
    count = math.ceil(size / tile)
    pairs = 0
    for index in range(count):
        first = window_start(index, window, count)
        keys = min((first + window) * tile, size) - first * tile
        pairs += (min((index + 1) * tile, size) - index * tile) * keys
    return pairs


@lru_cache(maxsize=64)
def _order(grid: Triple, tile: Triple) -> Tensor:
    positions = torch.arange(math.prod(grid)).view(grid)
    spans = [
        [slice(first, first + step) for first in range(0, size, step)] for size, step in zip(grid, tile, strict=True)
    ]
    return torch.cat([positions[t, h, w].flatten() for t, h, w in itertools.product(*spans)])


@lru_cache(maxsize=64)
def query_blocks(tiling: Tiling, rows: int) -> Tensor:
    """What a kernel's programs work on, when the sequence is in tile order: ``int32[blocks, 5]``.

    A row is the first query, the number of queries (at most ``rows``), and the tile's index in t, h and w; text has -1
    there and comes first, since it attends to everything and takes longest.
    """
    blocks: list[tuple[int, ...]] = []
    for first, stop in ((0, tiling.start), (tiling.stop, tiling.length)):
        blocks += [(row, min(rows, stop - row), -1, -1, -1) for row in range(first, stop, rows)]
    row = tiling.start
    for index in itertools.product(*(range(count) for count in tiling.tiles)):
        size = math.prod(
            min((i + 1) * step, whole) - i * step
            for i, step, whole in zip(index, tiling.tile, tiling.grid, strict=True)
        )
        blocks += [(row + at, min(rows, size - at), *index) for at in range(0, size, rows)]
        row += size
    return torch.tensor(blocks, dtype=torch.int32)


@cache  # for good: CUDA graphs go on reading it
def query_blocks_on(tiling: Tiling, rows: int, device: torch.device) -> Tensor:
    """:func:`query_blocks` on a device."""
    return query_blocks(tiling, rows).to(device)
