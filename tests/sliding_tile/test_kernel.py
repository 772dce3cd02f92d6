"""The kernels, as far as a machine without a GPU can tell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastvideo.backends.attention.sliding_tile import Tiling, sliding_tile_op
from fastvideo.backends.attention.sliding_tile.op import NAME
from fastvideo_ir.ops import registry
from tests.ir.cases.case import Call, Case, Draw, call, case
from tests.ir.oracle import check_case


@pytest.mark.kernel_loops
def test_interpreted_kernel_equals_the_masked_reference() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sliding_tile.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "the interpreted kernel equals the reference" in ran.stdout


def test_op_takes_tokens_in_either_order() -> None:
    tiling = Tiling((3, 5, 4), (2, 2, 3), 2, 65)
    q, k, v = torch.randn(3, 2, 2, 65, 8).unbind()
    windows = torch.tensor([[1, 2, 1], [2, 1, 3]], dtype=torch.int32)
    mask = torch.rand(2, 1, 1, 65) < 0.8
    order = torch.ops.fv_attn.tile_order(tiling.grid, tiling.tile, 2, 65, False, torch.device("cpu"))
    back = torch.ops.fv_attn.tile_order(tiling.grid, tiling.tile, 2, 65, True, torch.device("cpu"))
    place = (None, tiling.grid, tiling.tile, 2)
    natural = sliding_tile_op(q, k, v, windows, mask, *place, False)
    tiled = sliding_tile_op(*(x[:, :, order] for x in (q, k, v)), windows, mask[..., order], *place, True)
    torch.testing.assert_close(tiled[:, :, back], natural)
    unlike = sliding_tile_op(q, k, v, windows.flip(0), mask, *place, False)
    assert not torch.allclose(unlike, natural, atol=1e-3)  # windows are those of the head


def _call(d: Draw, groups: int = 1, masked: bool = False) -> Call:
    heads, tokens = d.size("k"), 24
    q, k, v = d.real("b", heads * groups, tokens, "d"), d.real("b", heads, tokens, "d"), d.real("b", heads, tokens, "e")
    windows = d.ints(heads * groups, 3, low=1, high=3).int()
    mask = d.positive("b", 1, 1, tokens) > 0.6 if masked else None
    return call(q, k, v, windows, mask, 0.3, [2, 3, 3], [1, 2, 2], 2, masked)


OP_CASES = [
    case(NAME, _call, "01", partial=[(2,)]),
    case(NAME, lambda d: _call(d, groups=2), "01"),
    case(NAME, lambda d: _call(d, masked=True), "01"),
]


@pytest.mark.parametrize("one", OP_CASES)
def test_sharding_rule_agrees_with_the_op(one: Case) -> None:
    check_case(registry.ops[NAME], one, range(4))


def _errors_call(d: Draw, groups: int = 1) -> Call:
    heads, tokens = d.size("k"), 18
    q, k = d.real("b", heads * groups, tokens, "d"), d.real("b", heads, tokens, "d")
    v, exact = d.real("b", heads, tokens, "e"), d.real("b", heads * groups, tokens, "e")
    return call(q, k, v, exact, None, None, [2, 3, 3], [1, 2, 2], 0, [1, 1, 1, 2, 1, 2])


@pytest.mark.parametrize(("groups", "shards"), [(1, "0"), (2, "")])
def test_sharding_rule_of_measured_errors_agrees_with_the_op(groups: int, shards: str) -> None:
    name = "fv_attn.window_errors"
    check_case(registry.ops[name], case(name, lambda d: _errors_call(d, groups), shards, tolerance=1e-5), range(4))
