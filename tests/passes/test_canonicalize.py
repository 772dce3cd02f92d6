"""``canonicalize``: what looks idle and is not stays. What goes is shown in ``programs/canonicalize.fvir``."""

from __future__ import annotations

import pytest

import fastvideo_ir as ir

from .running import assert_same_numbers, program, random_values, run_passes, run_whole

USE = "%used : f32[] = aten.sum.default(%out)"
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
    before = program(f"%x : f32[4, 6] = input\n{KEPT[kept]}\n{USE}\nreturn (%used)", stage="captured")
    after = run_passes(before, "canonicalize")
    assert len(list(after.nodes)) == len(list(before.nodes))
    assert_same_numbers(before, after, tolerance=0)


def test_view_of_bits_gets_neighbours_side_by_side() -> None:
    """The model copied before it viewed; its copy is as idle as any other, but for the strides."""
    before = program(
        """
        %x : f32[4, 2, 6] = input
        %turned : f32[4, 6, 2] = aten.transpose.int(%x, 1, 2)
        %copy : f32[4, 6, 2] = aten.contiguous.default(%turned)
        %bits : c64[4, 6] = aten.view_as_complex.default(%copy)
        %out : f32[4, 6] = aten.abs.default(%bits)
        return (%out)""",
        stage="captured",
    )
    assert_same_numbers(before, run_passes(before, "canonicalize"), tolerance=0)


def test_random_call_stays_though_nobody_reads_it() -> None:
    body = """
        %x : f32[4, 6] = input
        %unused : f32[4, 6] = aten.dropout.default(%x, 0.5, True)
        %noise : f32[4, 6] = aten.rand_like.default(%x)
        return (%x)"""
    after = run_passes(program(body, stage="captured"), "canonicalize")
    assert "aten.rand_like" in ir.print_program(after)


@pytest.mark.parametrize(
    "returned",
    [
        "%out : f32[4, 6] = aten.clone.default(%x)",
        "%out : f32[4, 6] = aten.contiguous.default(%w)",
        "%copy : f32[4, 6] = aten.clone.default(%x)\n%out : f32[24] = aten.view.default(%copy, [24])",
        "%row : (f32[2, 6], f32[2, 6]) = aten.chunk.default(%x, 2)\n%out : f32[2, 6] = getitem(%row, 1)",
    ],
)
def test_what_is_returned_shares_no_memory_with_inputs_and_weights(returned: str) -> None:
    """The caller may write to it; a folded copy would let that reach the weights."""
    head = '%w : f32[4, 6] = param "w" parameter\n%x : f32[4, 6] = input\n'
    before = program(f"{head}{returned}\nreturn (%out, %x, %w)", stage="captured")
    after = run_passes(before, "canonicalize")
    assert_same_numbers(before, after, tolerance=0)
    params, inputs = random_values(after)
    kept = [*params.values(), *inputs]
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept}
    assert all(out.untyped_storage().data_ptr() not in storages for out in run_whole(after, (params, inputs)))


def test_running_it_twice_changes_nothing() -> None:
    body = """
        %x : f32[4, 6] = input
        %y : f32[24] = aten.view.default(%x, [24])
        %z : f32[24] = aten.type_as.default(%y, %x)
        %e : f32[24] = aten.exp.default(%z)
        return (%e)"""
    once = run_passes(program(body, stage="captured"), "canonicalize")
    assert ir.print_program(run_passes(once, "canonicalize")) == ir.print_program(once)
