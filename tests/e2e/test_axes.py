"""Tensor, batch and mixed axes: the four DiTs agree with eager, weights are really cut, ranks share the work."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fastvideo import Parallel

from ..captures import captures_of
from ..models import CASES, ModelCase
from .measuring import Row, check, count_work, eager_outputs, measure

TOLERANCE = 1e-4

by_name = pytest.mark.parametrize("dit", CASES, ids=lambda dit: dit.name)


@dataclass
class Run:
    """One model on one mesh."""

    row: Row
    param_share: float
    collectives: dict[tuple[str, str], int]


def run(dit: ModelCase, parallel: Parallel, batch: int = 1) -> Run:
    shared, inputs = captures_of(dit), dit.inputs(1, batch=batch)
    model = shared.model
    expected, eager = eager_outputs(model, inputs), count_work(lambda: model(**inputs))
    with shared.compiled(parallel=parallel, executor="simulated") as compiled:
        compiled(**dit.inputs(0, batch=batch))
        work = count_work(lambda: compiled(**inputs))
        row = measure(compiled(**inputs), expected, work, eager, parallel.num_ranks)
        (report,) = compiled.report.programs
    whole = sum(parameter.nbytes for parameter in model.parameters())
    print(dit.name, parallel, row)
    counts = {(c.op, c.axis): 0 for c in report.collectives}
    for c in report.collectives:
        counts[c.op, c.axis] += c.count
    return Run(row, max(report.param_bytes_per_rank) / whole, counts)


@by_name
def test_tensor_axis_cuts_weights_and_work(dit: ModelCase) -> None:
    found = run(dit, Parallel(tp=2))
    check(found.row, TOLERANCE)
    assert found.param_share < 0.75


@by_name
def test_sequence_and_tensor_axis_together(dit: ModelCase) -> None:
    found = run(dit, Parallel(sp=2, tp=2))
    check(found.row, TOLERANCE)
    assert found.param_share < 0.75
    assert {axis for _, axis in found.collectives} == {"sp", "tp"}


@by_name
def test_batch_axis_exchanges_nothing_but_the_result(dit: ModelCase) -> None:
    found = run(dit, Parallel(cfg=2), batch=2)
    check(found.row, TOLERANCE)
    assert found.collectives == {("fv.all_gather", "cfg"): 1}


@by_name
def test_batch_and_sequence_axis_together(dit: ModelCase) -> None:
    found = run(dit, Parallel(cfg=2, sp=2), batch=2)
    check(found.row, TOLERANCE)
    assert {op for op, axis in found.collectives if axis == "cfg"} == {"fv.all_gather"}
