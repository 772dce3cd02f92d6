"""Both examples at once on two processes, which costs half of what one after the other does."""

from __future__ import annotations

import pytest

import fastvideo

from ..models import case
from .checking import check_against_eager
from .conftest import LoadExample


@pytest.mark.parametrize("name", ["wan", "flux"])
def test_pass_and_backend_on_two_processes(name: str, load_example: LoadExample) -> None:
    load_example("my_pass")
    load_example("my_backend")
    explained = check_against_eager(
        case(name),
        passes="default,merge-duplicates",
        attention_backend="BLOCKED",
        executor="mp",
        parallel=fastvideo.Parallel(sp=2),
    )
    assert "on 2 ranks (mp, cpu)" in explained and " × BLOCKED" in explained and "TORCH_SDPA" not in explained
