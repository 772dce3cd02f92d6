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


@needs_future_torch
def test_marked_test_is_skipped() -> None:
    raise AssertionError("must not run")


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1
