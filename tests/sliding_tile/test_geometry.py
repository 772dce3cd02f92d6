"""Tile order and windows as they are defined."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvideo.backends.attention.sliding_tile import Tiling
from fastvideo.backends.attention.sliding_tile.geometry import query_blocks
from fastvideo.backends.attention.sliding_tile.reference import attended

sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))
tiles = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    grid, start, behind = draw(sizes), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    return Tiling(grid, draw(tiles), start, start + grid[0] * grid[1] * grid[2] + behind)


def test_tokens_of_a_tile_lie_together_and_border_tiles_are_smaller() -> None:
    order = Tiling((1, 3, 5), (1, 2, 3), 0, 15).order()
    assert order.tolist() == [0, 1, 2, 5, 6, 7, 3, 4, 8, 9, 10, 11, 12, 13, 14]


def test_window_slides_with_the_tile_and_stays_whole_at_the_borders() -> None:
    tiling = Tiling((1, 1, 5), (1, 1, 1), 0, 5)
    every = torch.arange(5)
    near = attended(tiling, torch.tensor([1, 1, 3]), every, every)
    assert near.int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 1, 1, 1],
    ]
    assert bool(attended(tiling, torch.tensor([1, 1, 7]), every, every).all())


def test_text_sees_all_and_is_seen_by_all() -> None:
    tiling = Tiling((1, 1, 3), (1, 1, 1), 1, 5)
    every = torch.arange(5)
    near = attended(tiling, torch.tensor([1, 1, 1]), every, every)
    assert near.int().tolist() == [[1] * 5, [1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 1, 1], [1] * 5]


@settings(max_examples=60, deadline=None)
@given(tilings(), st.lists(sizes, min_size=1, max_size=2))
def test_density_is_the_mean_of_the_mask(tiling: Tiling, windows: list[tuple[int, int, int]]) -> None:
    every = torch.arange(tiling.length)
    masks = [attended(tiling, torch.tensor(window), every, every) for window in windows]
    mean = float(torch.stack(masks).double().mean())
    assert abs(tiling.density(torch.tensor(windows)) - mean) < 1e-9


@settings(max_examples=60, deadline=None)
@given(tilings(), st.integers(1, 9))
def test_query_blocks_cover_every_token_once_and_no_tile_twice(tiling: Tiling, rows: int) -> None:
    blocks = query_blocks(tiling, rows).tolist()
    covered = sorted(row for first, count, *_ in blocks for row in range(first, first + count))
    assert covered == list(range(tiling.length))
    position = torch.arange(tiling.length)
    position[tiling.start : tiling.stop] = tiling.order() + tiling.start
    for first, count, *index in blocks:
        for row in range(first, first + count):
            inside = int(position[row]) - tiling.start
            if index[0] < 0:
                assert not 0 <= inside < tiling.tokens
            else:
                _, high, wide = tiling.grid
                place = (inside // (high * wide), inside // wide % high, inside % wide)
                assert [at // step for at, step in zip(place, tiling.tile, strict=True)] == index
