"""Small mixtures of experts that send other tokens elsewhere at every call, and count them in Python."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, EXPERTS, TOKENS = 16, 4, 30


class Experts(nn.Module):
    """``forward(x)`` of ``[batch, tokens, WIDTH]``. Subclasses say how the tokens of each expert are found."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))
        self.counts: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        choice = self.gate(flat).argmax(-1)
        result = torch.zeros_like(flat)
        self.run(flat, choice, result)
        self.counts.append(torch.bincount(choice, minlength=EXPERTS).tolist())
        return result.view_as(x)

    def run(self, flat: Tensor, choice: Tensor, result: Tensor) -> None:
        raise NotImplementedError


class ByList(Experts):
    def run(self, flat: Tensor, choice: Tensor, result: Tensor) -> None:
        order, start = choice.argsort(), 0
        for expert, count in zip(self.experts, choice.bincount(minlength=EXPERTS).tolist(), strict=True):
            rows = order[start : start + count]
            result.index_copy_(0, rows, expert(flat[rows]))
            start += count


class ByArray(Experts):
    def run(self, flat: Tensor, choice: Tensor, result: Tensor) -> None:
        order = choice.argsort()
        ends = torch.bincount(choice).cpu().numpy().cumsum(0)
        for number, end in enumerate(ends):
            rows = order[(ends[number - 1] if number else 0) : end]
            result.scatter_reduce_(0, rows[:, None].expand(-1, WIDTH), self.experts[number](flat[rows]), reduce="sum")


class ByMask(Experts):
    def run(self, flat: Tensor, choice: Tensor, result: Tensor) -> None:
        for number, expert in enumerate(self.experts):
            result[choice == number] = expert(flat[choice == number])


class ByPosition(Experts):
    def run(self, flat: Tensor, choice: Tensor, result: Tensor) -> None:
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero().squeeze(-1)
            result[rows] += expert(flat[rows])


KINDS = [ByList, ByArray, ByMask, ByPosition]


class Block(nn.Module):
    """Attention, then experts, each with a residual."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.norm, self.qkv, self.experts = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), experts

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (12, 4)).transpose(1, 2).chunk(3, dim=1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + attended.transpose(1, 2).flatten(2)
        return x + self.experts(self.norm(x))


def model(kind: type[Experts] = ByList, depth: int = 2) -> nn.Sequential:
    """The same weights at every call; fp64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [Block(kind()) for _ in range(depth)]
        return nn.Sequential(nn.Linear(6, WIDTH), *blocks, nn.Linear(WIDTH, 6)).double().eval()


def tokens(seed: int) -> Tensor:
    return 3 * torch.randn(2, TOKENS, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
