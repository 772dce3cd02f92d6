"""``canonicalize``: what looks idle and is not stays. What goes is shown in ``programs/canonicalize.fvir``."""

from __future__ import annotations

import pytest

import fastvideo_ir as ir

from .running import assert_same_numbers, program, run_passes

KEPT = {
    "cast that rounds": """
        %low : bf16[4, 6] = aten.to.dtype(%x, !bf16)
        %out : f32[4, 6] = aten.to.dtype(%low, !f32)""",
    "slice of a part": "%out : f32[4, 5] = aten.slice.Tensor(%x, 1, 0, 5)",
    "slice with steps of the same length": """
        %one : f32[1, 6] = aten.slice.Tensor(%x, 0, 0, 1)
        %out : f32[1, 6] = aten.slice.Tensor(%one, 0, 0, 9223372036854775807, 2)""",
    "reshape to another shape": "%out : f32[6, 4] = aten.reshape.default(%x, [6, 4])",
    "expand of a row": """
        %row : f32[1, 6] = aten.slice.Tensor(%x, 0, 0, 1)
        %out : f32[3, 6] = aten.expand.default(%row, [3, 6])""",
    "addition of nothing": "%out : f32[4, 6] = aten.add.Tensor(%x, 0)",
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_may_compute_something_stays(kept: str) -> None:
    before = program(f"%x : f32[4, 6] = input\n{KEPT[kept]}\nreturn (%out)", stage="captured")
    after = run_passes(before, "canonicalize")
    assert len(list(after.nodes)) == len(list(before.nodes))
    assert_same_numbers(before, after, tolerance=0)


def test_random_call_stays_though_nobody_reads_it() -> None:
    body = """
        %x : f32[4, 6] = input
        %unused : f32[4, 6] = aten.dropout.default(%x, 0.5, True)
        %noise : f32[4, 6] = aten.rand_like.default(%x)
        return (%x)"""
    after = run_passes(program(body, stage="captured"), "canonicalize")
    assert "aten.rand_like" in ir.print_program(after)


def test_running_it_twice_changes_nothing() -> None:
    body = """
        %x : f32[4, 6] = input
        %y : f32[24] = aten.view.default(%x, [24])
        %z : f32[24] = aten.type_as.default(%y, %x)
        return (%z)"""
    once = run_passes(program(body, stage="captured"), "canonicalize")
    assert ir.print_program(run_passes(once, "canonicalize")) == ir.print_program(once)
