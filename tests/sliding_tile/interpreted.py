"""The plain Triton kernel under Triton's interpreter, against the masked reference; run as a program by the test.

TRITON_INTERPRET=1 python -m tests.sliding_tile.interpreted
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvideo.backends.attention.sliding_tile import Tiling, general
from fastvideo.backends.attention.sliding_tile.op import _key_bias
from fastvideo.backends.attention.sliding_tile.reference import sliding_tile_reference

triples = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    tile=st.tuples(st.integers(1, 2), st.integers(2, 3), st.integers(2, 4)),
    windows=st.tuples(triples, triples),
    text=st.tuples(st.integers(0, 3), st.integers(0, 35)),
    dims=st.sampled_from([(16, 16), (20, 20), (12, 24)]),
    kv_heads=st.sampled_from([1, 2]),
    mask=st.sampled_from(["", "bool", "added", "nothing"]),
    seed=st.integers(0, 9),
)
def check(grid, tile, windows, text, dims, kv_heads, mask, seed):  # type: ignore[no-untyped-def]
    tiling = Tiling(grid, tile, text[0], sum(text) + grid[0] * grid[1] * grid[2])
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(2, tiling.length, heads, dim, generator=generator).transpose(1, 2)
        for heads, dim in ((2, dims[0]), (kv_heads, dims[0]), (kv_heads, dims[1]))
    )
    table = torch.tensor(windows, dtype=torch.int32)
    masks = {
        "": None,
        "bool": torch.rand(2, 1, 1, tiling.length, generator=generator) < 0.7,
        "added": torch.randn(1, 1, 1, tiling.length, generator=generator),
        "nothing": torch.tensor([True, False]).view(2, 1, 1, 1).expand(2, 1, 1, tiling.length),
    }
    wanted = sliding_tile_reference(q, k, v, table, masks[mask], 0.4, tiling, True)
    out = torch.full((2, 2, tiling.length, dims[1]), torch.nan)
    general.run(q, k, v, _key_bias(masks[mask], q), table, 0.4, tiling, out)
    torch.testing.assert_close(out, wanted.nan_to_num(), rtol=1e-4, atol=1e-5)  # a query without keys yields zeros


if __name__ == "__main__":
    check()
    print("the interpreted kernel equals the reference")
