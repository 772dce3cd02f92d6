"""A small DiT in plain PyTorch, quick to compile: patches, timestep modulation, self- and cross-attention, an MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from torch import Tensor, nn

WIDTH, HEADS, TOKENS, TEXT = 32, 4, 30, 7


@dataclass
class ToyOutput(BaseOutput):
    """As diffusers' models return it."""

    sample: Tensor


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        key, value = self.key_value(context).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(heads(self.query(x)), heads(key), heads(value))
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.self_attention = Attention()
        self.cross_attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, context: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        normed = self.norm(x) * (1 + scale) + shift
        x = x + self.self_attention(normed, normed)
        x = x + self.cross_attention(x, context)
        return x + self.mlp(x)


class ToyDiT(nn.Module):
    """``forward(x, timestep, context, guidance=1.0, return_dict=True)``; x is ``[batch, tokens, 6]``."""

    offset: Tensor

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(6, WIDTH)
        self.time = nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 6)
        self.register_buffer("offset", torch.randn(6))

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, guidance: float = 1.0, return_dict: bool = True
    ) -> ToyOutput | tuple[Tensor]:
        condition = F.silu(self.time(timestep[:, None].to(x.dtype) / 1000))
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden, context, condition)
        sample = guidance * self.head(hidden) + self.offset
        return ToyOutput(sample=sample) if return_dict else (sample,)


def build(depth: int = 2) -> ToyDiT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ToyDiT(depth).eval()


def inputs(seed: int = 0, batch: int = 1, tokens: int = TOKENS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, tokens, 6, generator=generator),
        "timestep": torch.full((batch,), 500 + seed),
        "context": torch.randn(batch, TEXT, WIDTH, generator=generator),
    }
