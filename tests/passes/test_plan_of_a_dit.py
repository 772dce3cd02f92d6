"""The plan of a whole video DiT whose heads the ranks divide: the exchanges that are needed, and none besides."""

from __future__ import annotations

import pytest

import fastvideo_ir as ir
from fastvideo.passes.pipelines import Target, default_pipeline

from ..captures import program_of
from ..ir.filecheck import FileCheckError, filecheck
from ..models import case
from .running import collectives, run_passes

LAYERS = 3

# Eight heads of 12, and 175 tokens.
SELF_ATTENTION = r"""
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : ([[heads:f32\[1, 8@sp, 175, 12\]]], [[heads]], [[heads]]) = fv.all_to_all([{{%\w+, %\w+, %\w+}}], "sp")
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : [[heads]] = fv_attn.torch_sdpa(
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : (f32[1, 175@sp, 96]) = fv.all_to_all([%{{\w+}}], "sp")
"""
CROSS_ATTENTION_AND_MLP = r"""
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : f32[1, 8, 175@sp, 12] = fv_attn.torch_sdpa(
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : f32[1, 175@sp, 192] = fv.linear_gelu(
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     : f32[1, 175@sp, 96] = aten.linear.default(
"""
END = r"""
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     = fv.all_gather([%{{\w+}}], "sp")
CHECK-NOT: {{fv\.(all|reduce)_\w+\(}}
CHECK:     return
"""
CHECKS = (SELF_ATTENTION + CROSS_ATTENTION_AND_MLP) * LAYERS + END


@pytest.fixture(scope="module")
def captured() -> ir.Program:
    return program_of(case("wan"))


def on_ranks(program: ir.Program, ranks: int, passes: list[ir.Pass]) -> ir.Program:
    program.mesh = ir.Mesh((("sp", ranks),))
    return run_passes(program, passes)


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_self_attention_has_two_exchanges_and_nothing_else_has_any(captured: ir.Program, ranks: int) -> None:
    after = on_ranks(captured, ranks, default_pipeline(Target(ranks)))
    filecheck(ir.print_program(after, locations=False), CHECKS)
    assert collectives(after) == ["all_to_all"] * 2 * LAYERS + ["all_gather"]


def test_plan_without_packing_does_not_pass_for_it(captured: ir.Program) -> None:
    passes = [step for step in default_pipeline(Target(4)) if step.name != "pack-collectives"]
    with pytest.raises(FileCheckError):
        filecheck(ir.print_program(on_ranks(captured, 4, passes), locations=False), CHECKS)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dit", ["hunyuan", "ltx", "flux"])
def test_joint_and_cross_attention_need_no_more_exchanges_either(dit: str, ranks: int) -> None:
    after = on_ranks(program_of(case(dit)), ranks, default_pipeline(Target(ranks)))
    blocks = 3 if dit == "ltx" else 4
    assert collectives(after) == ["all_to_all"] * 2 * blocks + ["all_gather"]
