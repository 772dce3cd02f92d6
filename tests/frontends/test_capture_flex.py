"""FlexAttention is captured as matmuls and a softmax, whatever its score and mask functions are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import fastvideo
from fastvideo import Parallel

TOKENS, HEADS = 30, 4


class Flex(nn.Module):
    """``forward(x, lengths)``; x is ``[batch, TOKENS, 16]``. Subclasses attend."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.slopes = nn.Parameter(torch.linspace(0.1, 1, HEADS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, dim=1)
        attended = self.attend(query, key, value, lengths)
        return x + self.out(attended.transpose(1, 2).flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError


class Biased(Flex):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        def score_mod(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return torch.tanh(score / 3) * 3 - (q - k).abs() * self.slopes[head]

        result: Tensor = flex_attention(query, key, value, score_mod=score_mod)
        return result


class Masked(Flex):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        def mask_mod(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k < lengths[batch]) & (k >= q - 12)

        mask = create_block_mask(mask_mod, len(query), None, TOKENS, TOKENS, device=str(query.device))
        result: Tensor = flex_attention(query, key, value, block_mask=mask, scale=0.3)
        return result


class Grouped(Flex):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        result, sums = flex_attention(query, key[:, :2], value[:, :2], enable_gqa=True, return_lse=True)
        return result * torch.sigmoid(sums)[..., None]


class Compiled(Biased):
    """As users on GPUs call it; the backend is the one that compiles nothing."""

    compiled = staticmethod(torch.compile(flex_attention, backend="eager"))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        result: Tensor = self.compiled(query, key, value)
        return result


@pytest.mark.parametrize("kind", [Biased, Masked, Grouped, Compiled])
@pytest.mark.filterwarnings("ignore:return_lse is deprecated:FutureWarning")
def test_flex_attention_is_sharded_and_right_for_other_lengths(kind: Callable[[], Flex]) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    with (
        fastvideo.compile(model, device="cpu", parallel=Parallel(tp=2), executor="simulated") as compiled,
        torch.no_grad(),
    ):
        for seed, lengths in enumerate([[30, 9], [17, 30], [5, 6]]):
            x = torch.randn(2, TOKENS, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            expected = model(x, torch.tensor(lengths))
            assert float((compiled(x, torch.tensor(lengths)) - expected).abs().max()) < 1e-12
        assert len(compiled.programs) == 1
        assert compiled.report.programs[0].capture == "export"
        busiest = max(compiled.report.programs[0].flops_per_rank)
        assert busiest < 0.6 * compiled.report.programs[0].flops, "attention is not divided over heads"
