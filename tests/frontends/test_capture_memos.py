"""What a model remembers outside of its modules' attributes must not keep a tracer's tensors."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import fastvideo


@functools.lru_cache(maxsize=4)
def positions(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float32).cos()


class Rotary:
    """Callable, with a table that it makes when it is first called."""

    def __init__(self) -> None:
        self.table: list[Tensor] | None = None

    def __call__(self, length: int) -> Tensor:
        if self.table is None:
            self.table = [torch.arange(64, dtype=torch.float32).sin()]
        return self.table[0][:length]


class Branching(nn.Module):
    """Export gives it up half way, when table and memo are filled; the model itself has not run yet."""

    def __init__(self, remember: str) -> None:
        super().__init__()
        self.remember, self.linear, self.rotary = remember, nn.Linear(8, 8), Rotary()

    def forward(self, x: Tensor) -> Tensor:
        is_large = x.sum() > 1e6
        x = self.linear(x) * (positions if self.remember == "memo" else self.rotary)(x.shape[1])[None, :, None]
        return x + 1 if is_large else x - 1


@pytest.mark.parametrize("remember", ["memo", "object"])
@pytest.mark.parametrize("verify", [True, False])
def test_tables_made_while_traced_are_forgotten(remember: str, verify: bool) -> None:
    positions.cache_clear()
    model = Branching(remember).eval()
    x = torch.randn(1, 5, 8)
    found = fastvideo.compile(model, device="cpu", verify=verify)(x)
    assert torch.equal(found, model(x))
    assert type(positions(5)) is Tensor and type(model.rotary(5)) is Tensor
