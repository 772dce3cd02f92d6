"""Both examples at once on two processes, which costs half of what one after the other does."""

from __future__ import annotations

import pytest

import fastvideo

from ..models import CASES, ModelCase
from .checking import check_against_eager
from .conftest import LoadExample


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pass_and_backend_on_two_processes(case: ModelCase, load_example: LoadExample) -> None:
    load_example("my_pass")
    load_example("my_backend")
    explained = check_against_eager(
        case,
        passes="default,merge-duplicates",
        attention_backend="BLOCKED",
        executor="mp",
        parallel=fastvideo.Parallel(sp=2),
        verify=False,
    )
    assert "on 2 ranks (mp, cpu)" in explained and " × BLOCKED" in explained and "TORCH_SDPA" not in explained
