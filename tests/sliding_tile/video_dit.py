"""A small video DiT in plain PyTorch: patches of a 5-D latent, rotary positions, joint attention with text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        width = heads * head_dim
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        q, k = (y * cos + torch.cat([-y[..., 1::2], y[..., ::2]], -1) * sin for y in (q, k))
        attended = F.scaled_dot_product_attention(q, k, v, mask)
        return x + self.out(attended.transpose(1, 2).flatten(2))


class VideoDiT(nn.Module):
    """``forward(latents, text, keep=None)``; latents ``[b, 4, t, h, w]``, text ``[b, n, 8]``, keep ``bool[b, n]``.

    Args:
        heads: attention heads.
        head_dim: channels of each.
        text_first: whether text comes before the video in the joint sequence.
        layers: joint attentions.
    """

    def __init__(self, heads: int = 4, head_dim: int = 8, text_first: bool = False, layers: int = 2) -> None:
        super().__init__()
        width = heads * head_dim
        self.text_first = text_first
        self.patch = nn.Conv3d(4, width, (1, 2, 2), (1, 2, 2))
        self.context = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Attention(heads, head_dim) for _ in range(layers))
        self.head = nn.Linear(width, 16)
        self.register_buffer("frequencies", torch.linspace(0.1, 1.0, head_dim))

    def forward(self, latents: Tensor, text: Tensor, keep: Tensor | None = None) -> Tensor:
        patches = self.patch(latents)
        batch, _, t, h, w = patches.shape
        video, words = patches.flatten(2).transpose(1, 2), self.context(text)
        places = [torch.arange(n, device=latents.device) for n in (t, h, w)]
        angles = sum(grid.flatten()[:, None] * self.frequencies * (n + 1) for n, grid in enumerate(_meshgrid(places)))
        cos, sin = angles.cos().to(video.dtype), angles.sin().to(video.dtype)
        ones, zeros = torch.ones_like(cos[: words.shape[1]]), torch.zeros_like(cos[: words.shape[1]])
        x = self._joined(video, words, 1)
        cos, sin = self._joined(cos, ones, 0), self._joined(sin, zeros, 0)
        mask = None
        if keep is not None:
            mask = self._joined(keep.new_ones(batch, t * h * w), keep, 1)[:, None, None]
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        first = words.shape[1] if self.text_first else 0
        video = self.head(x[:, first : first + t * h * w])
        return video.reshape(batch, t, h, w, 4, 2, 2).permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def _joined(self, video: Tensor, words: Tensor, dim: int) -> Tensor:
        return torch.cat([words, video] if self.text_first else [video, words], dim)


def _meshgrid(places: list[Tensor]) -> list[Tensor]:
    return list(torch.meshgrid(*places, indexing="ij"))


def inputs(grid: tuple[int, int, int], words: int, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a model with so many tokens in time, height and width."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    latents = torch.randn(batch, 4, t, 2 * h, 2 * w, generator=generator)
    return {"latents": latents, "text": torch.randn(batch, words, 8, generator=generator)}
