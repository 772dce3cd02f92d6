"""Every class of the zoo is captured once, planned for each mesh, and agrees with eager; no work is done twice."""

from __future__ import annotations

import pytest

from ..e2e.measuring import MOST_WORK
from .cases import EXACT, ZooCase
from .running import MESHES, rounds_to_fp32, run_on, subject
from .zoo import KNOWN, ZOO

pytestmark = pytest.mark.filterwarnings("ignore")

WORKING = [case for case in ZOO if case.name not in KNOWN]


@pytest.mark.parametrize("case", WORKING, ids=lambda case: case.name)
def test_class_agrees_with_eager_and_ranks_share_its_work(case: ZooCase) -> None:
    found = subject(case)
    if case.tolerance != EXACT:
        assert case.casts
        assert any(rounds_to_fp32(known.program) for known in found.captures), "stays in fp64: list no cast"
    for mesh in MESHES:
        row = run_on(found, mesh)
        print(case.name, mesh, row)
        assert row.error <= case.tolerance, f"{mesh}: the ranks disagree with eager: {row}"
        if mesh in case.replicated:
            assert row.work_ratio > MOST_WORK, f"{mesh}: {case.replicated[mesh]} is divided now; list it no more"
        else:
            assert row.work_ratio <= MOST_WORK, f"{mesh}: the ranks repeat each other's FLOPs: {row}"


@pytest.mark.parametrize(
    ("case", "step"),
    [(case, step) for case in ZOO for step in KNOWN.get(case.name, {})],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_known_limit_is_refused_loudly(case: ZooCase, step: str) -> None:
    """Turns red when the class starts to work: then it leaves the table."""
    text = KNOWN[case.name][step]
    if step == "capture":
        with pytest.raises(Exception) as refusal:
            subject(case)
    else:
        found = subject(case)
        with pytest.raises(Exception) as refusal:
            run_on(found, step)
    assert str(refusal.value).startswith(text)


def test_every_class_stands_in_the_zoo_once() -> None:
    names = [case.name for case in ZOO]
    assert len(names) == len(set(names))
    assert set(KNOWN) <= set(names)
