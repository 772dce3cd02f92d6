"""The markers of tests/conftest.py skip for a reason that names what is missing."""

from __future__ import annotations

import pytest
import torch

from tests import conftest

needs_thousand_gpus = pytest.mark.gpu(1000)
needs_future_torch = pytest.mark.torch("99.0")


class Item:
    """As much of a test item as a marker check reads."""

    def __init__(self, marker: pytest.MarkDecorator) -> None:
        self.marker = marker.mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.marker if self.marker.name == name else None


def test_reasons_name_what_is_missing() -> None:
    assert conftest.missing_gpus(Item(needs_thousand_gpus)).startswith("needs 1000 CUDA device(s), found ")
    assert conftest.missing_torch(Item(needs_future_torch)) == (f"needs torch 99.0 or newer, found {torch.__version__}")
    assert conftest.missing_torch(Item(pytest.mark.torch("2.11"))) is None
    assert conftest.missing_gpus(Item(needs_future_torch)) is None


@pytest.mark.parametrize(
    ("triton", "numpy", "reason"),
    [
        ("3.6.0", "2.4.6", "triton 3.6.0 cannot interpret loops with numpy 2.4.6"),
        ("3.6.0", "2.3.5", None),
        ("3.10.0", "2.12.0", None),
    ],
)
def test_loops_are_not_interpreted_where_triton_and_numpy_disagree(
    triton: str, numpy: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("importlib.metadata.version", lambda name: triton)
    monkeypatch.setattr("numpy.__version__", numpy)
    assert conftest.missing_loops(Item(pytest.mark.kernel_loops)) == reason
    assert conftest.missing_loops(Item(needs_thousand_gpus)) is None


@needs_future_torch
def test_marked_test_is_skipped() -> None:
    raise AssertionError("must not run")


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1
