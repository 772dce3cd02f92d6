"""A model that hangs other tensors on itself while it runs is left as it was, and can be called again and again."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo.frontends.capture import capture
from fastvideo.frontends.capture.python_state import FrozenStateWarning


class Recomputes(nn.Module):
    """Replaces a buffer by a value that it computes anew at every call."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("speeds", torch.full((4,), start))

    def forward(self, x: Tensor) -> Tensor:
        self.speeds = torch.arange(4.0) + 1
        return self.linear(x) * self.speeds


def test_rebound_buffer_is_put_back_and_the_model_can_be_called_again() -> None:
    model = Recomputes(7.0).eval()
    before = model.speeds
    expected = (model.linear(torch.ones(2, 4)) * (torch.arange(4.0) + 1)).detach()
    x = torch.ones(2, 4)
    with fastvideo.compile(model, device="cpu", executor="local") as compiled:
        with pytest.warns(FrozenStateWarning, match="speeds"):
            compiled(x)
        assert model.speeds is before
        assert torch.equal(compiled(x), expected)


def test_value_that_stays_the_same_is_not_worth_a_warning() -> None:
    model = Recomputes(7.0).eval()
    model(torch.ones(2, 4))
    before = model.speeds
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenStateWarning)
        capture(model, (torch.ones(2, 4),), {})
    assert model.speeds is before
