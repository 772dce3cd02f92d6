"""Which stretches of keys a block of queries reads; shared by both kernels.

In tile order the keys of a window are a few *runs* of neighbouring tokens: one per row of tiles, fewer where the window
spans whole rows or whole planes. Tokens outside the grid add a run before it and one behind it. A block of text queries
has one run, the whole sequence.

These are plain functions: either compiler (Triton and Gluon) makes its own of them.
"""

from __future__ import annotations

import triton.language as tl


def window_dim(size, index, count):
    """``(first, number)`` of the key tiles along one dim, for the query tile ``index`` of ``count``."""
    first = tl.minimum(tl.maximum(index - size // 2, 0), tl.maximum(count - size, 0))
    return first, tl.minimum(size, count)


def run_bounds(
    run,
    is_text,
    texts,
    behind,
    first_t,
    number_t,
    first_h,
    number_h,
    first_w,
    number_w,
    merges_h,
    merges_w,
    grid_t,
    grid_h,
    grid_w,
    tile_t,
    tile_h,
    tile_w,
    start,
    length,
):
    """``(first key, keys)`` of the run numbered ``run``. The ``texts`` runs outside the grid come first.

    ``merges_w``: the window spans whole rows; ``merges_h``: whole planes too. ``behind``: run 0 lies behind the grid.
    """
    inside = run - texts
    row_h = tl.where(merges_w, 0, inside % number_h)
    row_t = tl.where(merges_h, 0, tl.where(merges_w, inside, inside // number_h))
    low_t = (first_t + row_t) * tile_t
    high_t = tl.minimum(tl.where(merges_h, first_t + number_t, first_t + row_t + 1) * tile_t, grid_t)
    low_h = (first_h + row_h) * tile_h
    high_h = tl.minimum(tl.where(merges_w, first_h + number_h, first_h + row_h + 1) * tile_h, grid_h)
    low_w = first_w * tile_w
    high_w = tl.minimum((first_w + number_w) * tile_w, grid_w)
    planes = high_t - low_t
    rows = planes * (high_h - low_h)
    first = start + low_t * grid_h * grid_w + planes * low_h * grid_w + rows * low_w
    keys = rows * (high_w - low_w)
    stop = start + grid_t * grid_h * grid_w
    is_last_text = (run == 1) | behind
    first = tl.where(run < texts, tl.where(is_last_text, stop, 0), first)
    keys = tl.where(run < texts, tl.where(is_last_text, length - stop, start), keys)
    return tl.where(is_text, 0, first), tl.where(is_text, length, keys)
