"""Models that read a value of their inputs into Python: a program for each value that many calls share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir


class Branches(nn.Module):
    """Reads a value of its input into Python, as models do that count the tokens of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        result: Tensor = self.linear(x[:, : int(length)])
        return result.sum(1)


def test_values_that_many_calls_share_are_compiled_one_by_one() -> None:
    model = Branches().eval()
    with fastvideo.compile(model, device="cpu", executor="local") as compiled, torch.no_grad():
        for length in (*range(1, 12), 1):
            for _ in range(2):
                x = torch.randn(2, 16, 4)
                torch.testing.assert_close(compiled(x, torch.tensor(length)), model(x, torch.tensor(length)))
        assert len(compiled.programs) == 8


def test_values_that_change_with_every_call_are_refused() -> None:
    with fastvideo.compile(Branches().eval(), device="cpu") as compiled:
        for length in range(1, 5):
            compiled(torch.randn(2, 16, 4), torch.tensor(length))
        with pytest.raises(ir.errors.CaptureError, match="captured for 4 values of one guard, and now it has another"):
            compiled(torch.randn(2, 16, 4), torch.tensor(5))
