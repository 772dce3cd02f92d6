"""Four untouched diffusers DiTs under sequence parallelism: they agree with eager, and the ranks share the work."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import fastvideo
import fastvideo_ir as ir
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo.passes.plan_sharding import PlanSharding

from ..captures import Captures, captures_of
from ..models import CASES, ODD_CASES, ModelCase, case
from .measuring import Work, check, count_work, eager_outputs, errors_of, measure

SINGLE, DOUBLE = 1e-4, 1e-10
CAST_INSIDE = 1e-6
"""For fp64 models that compute a part of themselves in fp32."""

by_name = pytest.mark.parametrize("dit", CASES, ids=lambda dit: dit.name)


@lru_cache(maxsize=4)
def eager(dit: ModelCase, dtype: torch.dtype = torch.float32) -> tuple[Captures, list[Tensor], Work]:
    """The model, what it returns for inputs that it is not compiled with, and the work that this takes."""
    shared, inputs = captures_of(dit, dtype), dit.inputs(1, dtype)
    return shared, eager_outputs(shared.model, inputs), count_work(lambda: shared.model(**inputs))


def run_row(dit: ModelCase, ranks: int, dtype: torch.dtype = torch.float32) -> None:
    """Compile on first inputs, then check second ones."""
    shared, expected, eager_work = eager(dit, dtype)
    with shared.compiled(parallel=fastvideo.Parallel(sp=ranks), executor="simulated") as compiled:
        compiled(**dit.inputs(0, dtype))
        inputs = dit.inputs(1, dtype)
        work = count_work(lambda: compiled(**inputs))
        row = measure(compiled(**inputs), expected, work, eager_work, ranks)
        (program,) = compiled.programs
    tolerance = SINGLE if dtype is torch.float32 else CAST_INSIDE if rounds_to_fp32(program) else DOUBLE
    print(dit.name, ranks, dtype, row)
    check(row, tolerance)


def rounds_to_fp32(program: ir.Program) -> bool:
    """Whether an fp64 model casts to fp32 inside."""
    return any(
        ir.tensor_type(node).dtype is torch.float32 and ir.tensor_type(operand).dtype is torch.float64
        for node in program.nodes
        if node.target is torch.ops.aten.to.dtype
        for operand in node.all_input_nodes
    )


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("dit", [*CASES, *ODD_CASES], ids=lambda dit: dit.name)
def test_model_agrees_with_eager_and_ranks_share_its_work(dit: ModelCase, ranks: int) -> None:
    run_row(dit, ranks)


@by_name
def test_model_in_fp64_agrees_to_rounding(dit: ModelCase) -> None:
    run_row(dit, 3, torch.float64)


class Replicate(ir.Pass):
    """Stands in for a planner that divides nothing."""

    name = "replicate"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None: ...


def test_compiler_that_replicates_everything_fails_the_check_on_flops() -> None:
    dit = case("wan")
    shared, expected, eager_work = eager(dit)
    passes = [Replicate() if isinstance(step, PlanSharding) else step for step in default_pipeline(Target(ranks=2))]
    with shared.compiled(parallel=fastvideo.Parallel(sp=2), executor="simulated", passes=passes) as compiled:
        inputs = dit.inputs(1)
        work = count_work(lambda: compiled(**inputs))
        row = measure(compiled(**inputs), expected, work, eager_work, 2)
    assert max(row.errors) <= SINGLE
    with pytest.raises(AssertionError, match="repeat each other's FLOPs"):
        check(row, SINGLE)


def test_check_refuses_wrong_numbers_uneven_attention_and_uncounted_attention() -> None:
    _, expected, eager_work = eager(case("wan"))
    half = eager_work.attention[None] / 2
    fair = Work(total=eager_work.total, attention=type(eager_work.attention)({0: int(half), 1: int(half)}))
    row = measure(expected, expected, fair, eager_work, 2)
    check(row, SINGLE)
    for broken, reason in (
        (replace(row, errors=(2 * SINGLE,)), "disagree with eager"),
        (replace(row, attention_shares=(0.61, 0.39)), "more than its share"),
        (replace(row, attention_shares=(0.4, 0.4)), "nobody counted"),
    ):
        with pytest.raises(AssertionError, match=reason):
            check(broken, SINGLE)


@by_name
def test_model_on_real_processes_agrees_with_eager(dit: ModelCase) -> None:
    """On three, which divide neither heads nor tokens."""
    shared, expected, _ = eager(dit)
    with shared.compiled(3, executor="mp") as compiled:
        compiled(**dit.inputs(0))
        outputs = compiled(**dit.inputs(1))
    assert max(errors_of(outputs, expected)) <= SINGLE
