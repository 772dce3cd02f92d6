"""Models that draw random numbers: with one seed any number of ranks draws what the model draws, at every call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
from fastvideo import Parallel

from .measuring import errors_of


class Noisy(nn.Module):
    """Noise, dropout that stays on, a draw that nobody reads; dropout in evaluation, which draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out, self.idle = nn.Linear(16, 48), nn.Linear(16, 16), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.idle(self.project(x)).unflatten(-1, (12, 4)).transpose(1, 2).chunk(3, dim=1)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        noisy = attended + torch.randn_like(attended) * torch.rand(())
        torch.rand(3)
        kept, mask = torch.native_dropout(self.out(noisy), 0.3, True)
        return F.dropout(kept, 0.2, training=True) + torch.randn(16, dtype=torch.complex64).real, mask * 1.0


class Reading(Noisy):
    """Captured with real values, and so really run while it is traced."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = 2 if bool((x[0, 0, 0] > 100).item()) else 3
        result, mask = super().forward(x)
        return result * scale, mask


@pytest.mark.parametrize("kind", [Noisy, Reading])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_gpus": 3, "executor": "simulated"}, {"parallel": Parallel(sp=2, tp=2), "executor": "simulated"},
     {"num_gpus": 2, "executor": "mp"}],
    ids=["local", "simulated", "simulated-2x2", "mp"],
)  # fmt: skip
def test_one_seed_draws_the_same_numbers_on_any_number_of_ranks(kind: type[Noisy], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    with fastvideo.compile(model, device="cpu", **options) as compiled:
        for seed in (1, 2):
            x = torch.randn(2, 30, 16, dtype=torch.float64)
            torch.manual_seed(seed)
            with torch.no_grad():
                expected = model(x)
            after = torch.get_rng_state()
            torch.manual_seed(seed)
            outputs = compiled(x)
            assert max(errors_of(outputs, expected)) <= 1e-10
            assert torch.equal(torch.get_rng_state(), after), "eager would go on with other numbers"
