"""The Triton kernel of ``fv.norm_rotary``: rows are read as pairs, normalized and rotated in registers, and written."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
"""Elements of one program where it may choose."""


@triton.jit
def _load_pairs(base, rows, inside, row_stride, half, INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr):
    """First and second elements of the pairs of some rows, in fp32: neighbours, or elements half a row apart."""
    row = base + rows[:, None] * row_stride
    if INTERLEAVED:
        columns = tl.arange(0, 2 * PAIRS)[None, :]
        both = tl.load(row + columns, mask=inside[:, None] & (columns < 2 * half), other=0.0).to(tl.float32)
        return tl.split(tl.reshape(both, (rows.shape[0], PAIRS, 2)))
    columns = tl.arange(0, PAIRS)[None, :]
    mask = inside[:, None] & (columns < half)
    first = tl.load(row + columns, mask=mask, other=0.0).to(tl.float32)
    return first, tl.load(row + half + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_table(
    base, rows, inside, row_stride, half, FULL: tl.constexpr, INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr
):
    """A table's values for both elements of the pairs."""
    if FULL:
        return _load_pairs(base, rows, inside, row_stride, half, INTERLEAVED, PAIRS)
    columns = tl.arange(0, PAIRS)[None, :]
    mask = inside[:, None] & (columns < half)
    value = tl.load(base + rows[:, None] * row_stride + columns, mask=mask, other=0.0).to(tl.float32)
    return value, value


@triton.jit
def _row_sum(value, JOINT: tl.constexpr):
    """Over the row, or over all rows."""
    total = tl.sum(value, 1)
    return tl.sum(total, 0) if JOINT else total[:, None]


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    weight,
    bias,
    out,
    middle,
    rows_in_all,
    half,
    eps,
    x_outer,
    x_middle,
    x_row,
    cos_outer,
    cos_middle,
    cos_row,
    sin_outer,
    sin_middle,
    sin_row,
    NORM: tl.constexpr,
    RMS: tl.constexpr,
    JOINT: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    COS_FULL: tl.constexpr,
    SIN_FULL: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    blocks = tl.cdiv(rows_in_all, ROWS)
    number = tl.program_id(0).to(tl.int64) // blocks
    at, between = number // middle, number % middle
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS).to(tl.int64)
    inside = rows < rows_in_all
    x += at * x_outer + between * x_middle
    first, second = _load_pairs(x, rows, inside, x_row, half, INTERLEAVED, PAIRS)
    if NORM:
        count = 2 * half * rows_in_all if JOINT else 2 * half
        if not RMS:
            mean = _row_sum(first + second, JOINT) / count
            mask = inside[:, None] & (tl.arange(0, PAIRS)[None, :] < half)
            first, second = tl.where(mask, first - mean, 0.0), tl.where(mask, second - mean, 0.0)
        rstd = tl.rsqrt(_row_sum(first * first + second * second, JOINT) / count + eps)
        first, second = first * rstd, second * rstd
    if WEIGHT:
        w, v = _load_pairs(weight, rows, inside, 2 * half if JOINT else 0, half, INTERLEAVED, PAIRS)
        first, second = first * w, second * v
    if BIAS:
        w, v = _load_pairs(bias, rows, inside, 2 * half if JOINT else 0, half, INTERLEAVED, PAIRS)
        first, second = first + w, second + v
    cos += at * cos_outer + between * cos_middle
    sin += at * sin_outer + between * sin_middle
    c, d = _load_table(cos, rows, inside, cos_row, half, COS_FULL, INTERLEAVED, PAIRS)
    s, t = _load_table(sin, rows, inside, sin_row, half, SIN_FULL, INTERLEAVED, PAIRS)
    turned_first, turned_second = first * c - second * s, second * d + first * t
    kind = out.dtype.element_ty
    out += (number * rows_in_all + rows[:, None]) * (2 * half)
    if INTERLEAVED:
        columns = tl.arange(0, 2 * PAIRS)[None, :]
        both = tl.reshape(tl.join(turned_first.to(kind), turned_second.to(kind)), (ROWS, 2 * PAIRS))
        tl.store(out + columns, both, mask=inside[:, None] & (columns < 2 * half))
    else:
        columns = tl.arange(0, PAIRS)[None, :]
        mask = inside[:, None] & (columns < half)
        tl.store(out + columns, turned_first.to(kind), mask=mask)
        tl.store(out + half + columns, turned_second.to(kind), mask=mask)


def rotate_rows(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: str,
    joint: bool,
    eps: float,
    interleaved: bool,
    out: Tensor,
) -> None:
    """Write to ``out``, which is contiguous; arguments as in :func:`.norm_rotary.norm_rotary`."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    x = x[(None,) * (4 - x.ndim)]
    outer, middle, rows, channels = x.shape
    half = channels // 2
    pairs = triton.next_power_of_2(half)
    tile = triton.next_power_of_2(rows) if joint else _tile(rows, 2 * pairs)
    tables = [(t if t.stride(-1) == 1 else t.contiguous()).expand(*x.shape[:-1], t.shape[-1]) for t in (cos, sin)]
    _rotate[(outer * middle * triton.cdiv(rows, tile),)](
        x,
        *tables,
        weight,
        bias,
        out,
        middle,
        rows,
        half,
        eps,
        *x.stride()[:3],
        *tables[0].stride()[:3],
        *tables[1].stride()[:3],
        NORM=norm != "none",
        RMS=norm == "rms",
        JOINT=joint,
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        INTERLEAVED=interleaved,
        COS_FULL=cos.shape[-1] == channels,
        SIN_FULL=sin.shape[-1] == channels,
        ROWS=tile,
        PAIRS=pairs,
        num_warps=4 if tile * 2 * pairs <= 4096 else 8,
    )


def _tile(rows: int, width: int) -> int:
    """How many rows a program takes: as many as it may, but fewer where they then divide what there is."""
    tile: int = min(triton.next_power_of_2(rows), max(1, _TILE // width))
    while tile > 4 and rows % tile:
        tile //= 2
    return tile
