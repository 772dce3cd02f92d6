"""Sliding tile attention against dense FlashAttention 3, on several latent shapes, in one run.

    python -m benchmarks.sliding_tile --output rows.json

Each row: milliseconds (median), and the time over dense time × density, which an ideal kernel brings to 1. ``masked``
is the Hopper kernel with half of the text hidden, ``general`` the one for other GPUs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvideo.backends import attention
from fastvideo.backends.attention.sliding_tile import Tiling, general, hopper, sliding_tile_op
from fastvideo.backends.attention.sliding_tile.reference import sliding_tile_reference

TILE, WINDOW, HEADS, HEAD_DIM = (6, 8, 8), (3, 3, 3), 24, 128
SHAPES = (
    ((30, 48, 80), 0),
    ((33, 45, 80), 256),
    ((21, 30, 52), 0),
    ((21, 45, 80), 0),
    ((31, 44, 78), 0),
    ((16, 30, 45), 226),
)
"""Tokens in time, height and width, and text tokens behind them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    rows = []
    for grid, text in SHAPES:
        rows.append(measure(Tiling(grid, TILE, 0, grid[0] * grid[1] * grid[2] + text)))
        print(line(rows[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))


def measure(tiling: Tiling) -> dict[str, Any]:
    """One shape: every kernel checked on a few rows of heads, then timed."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, tiling.length, HEADS, HEAD_DIM, device="cuda", generator=generator).bfloat16().transpose(1, 2)
        for _ in "qkv"
    )
    windows = torch.tensor([WINDOW] * HEADS, dtype=torch.int32, device="cuda")
    scale = HEAD_DIM**-0.5
    bias = torch.zeros(1, tiling.length, device="cuda")
    bias[:, tiling.stop + (tiling.length - tiling.stop) // 2 :] = -torch.inf
    kernels: dict[str, Callable[[Tensor], object]] = {
        "hopper": lambda out: hopper.run(q, k, v, None, windows, scale, tiling, out),
        "masked": lambda out: hopper.run(q, k, v, bias, windows, scale, tiling, out),
        "general": lambda out: general.run(q, k, v, None, windows, scale, tiling, out),
    }
    site = (windows, None, None, tiling.grid, tiling.tile, tiling.start, True)
    start = time.perf_counter()
    sliding_tile_op(q, k, v, *site)
    torch.cuda.synchronize()
    row: dict[str, Any] = {"grid": tiling.grid, "text": tiling.length - tiling.tokens}
    row["first_call_s"] = time.perf_counter() - start
    row["density"] = tiling.density(windows.cpu())
    dense = attention.named("FLASH_ATTN")
    row["dense"] = timed(lambda: dense.run(q, k, v, None, None, False), 4)
    few = (q[:, :1].float(), k[:, :1].float(), v[:, :1].float(), windows[:1])
    for name, kernel in kernels.items():
        out = torch.full_like(q, torch.nan)
        kernel(out)
        mask = (bias == 0)[:, None, None] if name == "masked" else None
        wanted = sliding_tile_reference(*few, mask, None, tiling, True)
        row[f"{name}_error"] = float((out[:, :1] - wanted).norm() / wanted.norm())
        row[name] = timed(lambda kernel=kernel, out=out: kernel(out), 8)
    return row


def timed(function: Callable[[], object], times: int) -> float:
    """Median of ``times`` calls, in milliseconds."""
    function()
    found = []
    for _ in range(times):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        first.record()
        function()
        last.record()
        last.synchronize()
        found.append(first.elapsed_time(last))
    return statistics.median(found)


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    ideal = row["dense"] * row["density"]
    kernels = ", ".join(
        f"{name} {row[name]:.2f} ms ({row[name] / ideal:.3f} x ideal, error {row[f'{name}_error']:.1e})"
        for name in ("hopper", "masked", "general")
    )
    shape = "x".join(map(str, row["grid"])) + (f" + {row['text']} text" if row["text"] else "")
    return (
        f"{shape}: dense {row['dense']:.1f} ms, density {row['density']:.4f}, "
        f"first call {row['first_call_s']:.1f} s; {kernels}"
    )


if __name__ == "__main__":
    main()
