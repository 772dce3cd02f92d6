"""Four DiTs that are in no library, each written in another style."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .cases import ZooCase, entry

HEAD_DIM = 12


class EinopsBlock(nn.Module):
    """Everything is a rearrange: tokens as a grid, windows over rows in time, rotary embedding by pairs."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD_DIM
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        h = self.before(x)
        q = rearrange(self.queries(h), "b t y x (n d) -> b n (t y x) d", n=self.heads)
        k, v = rearrange(self.keys_values(h), "b t y x (two n d) -> two b n (t y x) d", two=2, n=self.heads)
        q, k = self.rotate(q, angles), self.rotate(k, angles)
        h = F.scaled_dot_product_attention(q, k, v)
        _, frames, rows, columns, _ = x.shape
        h = rearrange(h, "b n (t y x) d -> b t y x (n d)", t=frames, y=rows, x=columns)
        x = x + self.out(h)
        return x + self.mlp(self.between(x))

    @staticmethod
    def rotate(x: Tensor, angles: Tensor) -> Tensor:
        first, second = rearrange(x, "b n s (d two) -> two b n s d", two=2)
        turned = torch.stack(
            [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()]
        )
        return rearrange(turned, "two b n s d -> b n s (d two)")


class EinopsDiT(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD_DIM
        self.patches = nn.Linear(4 * 2 * 2, width)
        self.blocks = nn.ModuleList(EinopsBlock(heads) for _ in range(2))
        self.unpatch = nn.Linear(width, 4 * 2 * 2)
        self.register_buffer("speeds", 1.0 / 100 ** torch.linspace(0, 1, HEAD_DIM // 2))

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        x = self.patches(rearrange(latents, "b c t (y p) (x q) -> b t y x (c p q)", p=2, q=2))
        frames, rows, columns = x.shape[1:4]
        positions = torch.arange(frames * rows * columns, dtype=x.dtype)
        angles = rearrange(positions, "s -> s 1") * self.speeds
        x = x + repeat(time.to(x.dtype) / 1000, "b -> b t y x 1", t=frames, y=rows, x=columns)
        for block in self.blocks:
            x = block(x, angles)
        return rearrange(self.unpatch(x), "b t y x (c p q) -> b c t (y p) (x q)", p=2, q=2)


class FusedBlock(nn.Module):
    """One projection for q, k, v and the gated MLP's input, and one back; queries and keys are normed per head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, heads * HEAD_DIM
        self.norm = nn.RMSNorm(self.width)
        self.query_norm, self.key_norm = nn.RMSNorm(HEAD_DIM), nn.RMSNorm(HEAD_DIM)
        self.fused_in = nn.Linear(self.width, 3 * self.width + 4 * self.width, bias=False)
        self.fused_out = nn.Linear(self.width + 2 * self.width, self.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv, wide = self.fused_in(self.norm(x)).split([3 * self.width, 4 * self.width], dim=-1)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v)
        gate, value = wide.chunk(2, dim=-1)
        joined = torch.cat([h.transpose(1, 2).flatten(2), F.silu(gate) * value], dim=-1)
        return x + self.fused_out(joined)


class FusedDiT(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv3d(4, heads * HEAD_DIM, (1, 2, 2), (1, 2, 2))
        self.time = nn.Embedding(1000, heads * HEAD_DIM)
        self.blocks = nn.ModuleList(FusedBlock(heads) for _ in range(3))
        self.out = nn.ConvTranspose3d(heads * HEAD_DIM, 4, (1, 2, 2), (1, 2, 2))

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        x = self.embed(latents)
        grid = x.shape[2:]
        x = x.flatten(2).mT + self.time(time)[:, None]
        for block in self.blocks:
            x = block(x)
        return self.out(x.mT.unflatten(2, grid))


class SoftmaxBlock(nn.Module):
    """Attention written out, with grouped keys, a learned distance bias, and text read by cross-attention."""

    def __init__(self, heads: int, text_dim: int) -> None:
        super().__init__()
        self.heads, width = heads, heads * HEAD_DIM
        self.q, self.k, self.v = (nn.Linear(width, n) for n in (width, width // 2, width // 2))
        self.cross_q, self.cross_k, self.cross_v = (nn.Linear(n, width) for n in (width, text_dim, text_dim))
        self.out, self.cross_out = nn.Linear(width, width), nn.Linear(width, width)
        self.slopes = nn.Parameter(torch.rand(heads))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + bias
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        weights = weights / weights.sum(dim=-1, keepdim=True)
        mixed = torch.matmul(weights, v)
        return mixed.permute(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], -1)

    def split(self, x: Tensor) -> Tensor:
        heads = x.shape[-1] // HEAD_DIM
        split = x.reshape(x.shape[0], x.shape[1], heads, HEAD_DIM).permute(0, 2, 1, 3)
        return split.repeat_interleave(self.heads // heads, dim=1)

    def forward(self, x: Tensor, text: Tensor, distance: Tensor, real: Tensor) -> Tensor:
        h = self.norms[0](x)
        bias = -self.slopes[:, None, None] * distance
        x = x + self.out(self.attend(self.split(self.q(h)), self.split(self.k(h)), self.split(self.v(h)), bias))
        h = self.norms[1](x)
        hidden = torch.zeros_like(real, dtype=x.dtype).masked_fill(~real, -1e4)[:, None, None]
        keys, values = self.split(self.cross_k(text)), self.split(self.cross_v(text))
        x = x + self.cross_out(self.attend(self.split(self.cross_q(h)), keys, values, hidden))
        return x + self.down(torch.relu(self.up(self.norms[2](x))).square())


class SoftmaxDiT(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD_DIM
        self.read, self.write = nn.Linear(8, width), nn.Linear(width, 8)
        self.blocks = nn.ModuleList(SoftmaxBlock(heads, 16) for _ in range(2))

    def forward(self, tokens: Tensor, text: Tensor, real: Tensor) -> Tensor:
        x = self.read(tokens)
        place = torch.arange(tokens.shape[1])
        distance = (place[:, None] - place).abs().to(x.dtype) / len(place)
        for block in self.blocks:
            x = block(x, text, distance, real)
        return self.write(x)


class RegisterBlock(nn.Module):
    """adaLN-zero over image tokens and registers in one sequence."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD_DIM
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = self.norms[0](x) * (1 + scale) + shift
        x = x + gate * self.attention(h, h, h, need_weights=False)[0]
        return x + gate2 * self.mlp(self.norms[1](x) * (1 + scale2) + shift2)


class RegisterDiT(nn.Module):
    """Registers stand before the tokens and are dropped at the end."""

    def __init__(self, heads: int, registers: int = 5) -> None:
        super().__init__()
        width = heads * HEAD_DIM
        self.registers = nn.Parameter(torch.randn(registers, width))
        self.embed = nn.Conv2d(4, width, 2, 2)
        self.positions = nn.Parameter(torch.randn(11 * 17, width))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(10, width)
        self.blocks = nn.ModuleList(RegisterBlock(heads) for _ in range(2))
        self.out = nn.Linear(width, 4 * 2 * 2)

    def forward(self, latents: Tensor, time: Tensor, label: Tensor) -> Tensor:
        batch, _, height, width = latents.shape
        x = self.embed(latents).flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.registers.expand(batch, -1, -1), x], dim=1)
        speeds = torch.exp(torch.linspace(0, -7, 16, dtype=latents.dtype))
        angles = time[:, None].to(latents.dtype) * speeds
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1)) + self.labels(label)
        for block in self.blocks:
            x = block(x, condition)
        x = self.out(x[:, self.registers.shape[0] :])
        x = x.reshape(batch, height // 2, width // 2, 2, 2, 4)
        return torch.einsum("bhwpqc->bchpwq", x).reshape(batch, 4, height, width)


HANDWRITTEN: tuple[ZooCase, ...] = (
    entry(
        "einops",
        EinopsDiT,
        lambda draw: {"latents": draw.tokens(4, 5, 10, 14), "time": draw.timestep()},
    ),
    entry("fused-qkv", FusedDiT, lambda draw: {"latents": draw.tokens(4, 5, 10, 14), "time": draw.timestep()}),
    entry(
        "softmax",
        SoftmaxDiT,
        lambda draw: {"tokens": draw.tokens(175, 8), "text": draw.tokens(10, 16), "real": draw.mask(10).bool()},
    ),
    entry(
        "registers",
        RegisterDiT,
        lambda draw: {"latents": draw.tokens(4, 22, 34), "time": draw.timestep(), "label": draw.integers(10)},
    ),
)
