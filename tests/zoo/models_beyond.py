"""What is no transformer of diffusers: U-Nets, control nets, decoders of latents, and models written here."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import models
from torch import Tensor, nn

from .cases import Draw, ZooCase, entry

TEXT, TEXT_DIM = 10, 16


class Decoder(nn.Module):
    """The part of an autoencoder that makes a video of latents."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        (video,) = self.autoencoder.decode(latents, return_dict=False)
        assert isinstance(video, Tensor)
        return video


class VisionTransformer(nn.Module):
    """In the manner of timm: a class token, fused qkv, layer scale, attention pooling."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * 12
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 77 + 1, width))
        self.blocks = nn.ModuleList(VisionBlock(width, heads) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, 13)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        pooled, _ = self.pool(x[:, :1], x, x, need_weights=False)
        return self.head(pooled[:, 0])  # type: ignore[no-any-return]


class VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scales = nn.Parameter(torch.rand(2, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.before(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.scales[0] * self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.scales[1] * self.down(F.gelu(self.up(self.between(x))))


class StateSpaceBlock(nn.Module):
    """A causal convolution over time, and a state that decays by what each token says, summed by one matmul."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.inside = nn.Linear(width, 2 * width)
        self.mix = nn.Conv1d(width, width, 4, groups=width, padding=3)
        self.reads, self.writes = nn.Linear(width, heads * 8), nn.Linear(width, heads * 8)
        self.rates = nn.Linear(width, heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        value, gate = self.inside(self.norm(x)).chunk(2, dim=-1)
        value = F.silu(self.mix(value.transpose(1, 2))[..., :tokens].transpose(1, 2))
        read = self.reads(value).view(batch, tokens, self.heads, -1).transpose(1, 2)
        write = self.writes(value).view(batch, tokens, self.heads, -1).transpose(1, 2)
        decay = F.logsigmoid(self.rates(value)).transpose(1, 2).cumsum(dim=-1)
        weights = (decay[..., :, None] - decay[..., None, :]).tril().exp().tril()
        states = (torch.einsum("bhsn,bhtn->bhst", read, write) * weights) @ value.view(
            batch, tokens, self.heads, -1
        ).transpose(1, 2)
        return x + self.out(states.transpose(1, 2).flatten(2) * F.silu(gate))


class LinearAttentionBlock(nn.Module):
    """Keys and values are summed into one matrix per head, which the queries read; both ways over the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("bthd,bthe->bhde", k, v)
        total = torch.einsum("bshd,bhd->bsh", q, k.sum(dim=1))
        read = torch.einsum("bshd,bhde->bshe", q, memory) / total[..., None]
        return x + self.out(read.flatten(2))  # type: ignore[no-any-return]


class Hybrid(nn.Module):
    """State-space, linear and softmax attention in turn."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * 12
        self.embed = nn.Linear(6, width)
        self.blocks = nn.ModuleList(
            kind(width, heads) for _ in range(2) for kind in (StateSpaceBlock, LinearAttentionBlock, VisionBlock)
        )
        self.out = nn.Linear(width, 6)

    def forward(self, frames: Tensor, time: Tensor) -> Tensor:
        x = self.embed(frames) + time[:, None, None]
        for block in self.blocks:
            x = block(x)
        return self.out(x)  # type: ignore[no-any-return]


def _unet(heads: int) -> nn.Module:
    return models.UNet2DConditionModel(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(heads * 8, heads * 16),
        layers_per_block=1,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=heads,
        norm_num_groups=4,
    )


def _image(draw: Draw, **more: Any) -> dict[str, Any]:
    return {
        "sample": draw.tokens(4, 12, 20),
        "timestep": draw.timestep(),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "return_dict": False,
        **more,
    }


def _control(heads: int) -> nn.Module:
    return models.FluxControlNetModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=12,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 4),
    )


BEYOND: tuple[ZooCase, ...] = (
    entry("UNet2D", _unet, _image),
    entry(
        "FluxControlNet",
        _control,
        lambda draw: {
            "hidden_states": draw.tokens(187, 8),
            "controlnet_cond": draw.tokens(187, 8),
            "conditioning_scale": 0.7,
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "pooled_projections": draw.tokens(8),
            "timestep": draw.fraction(),
            "img_ids": draw.ids(11, 17),
            "txt_ids": torch.full((TEXT, 3), 0.25 * draw.seed, dtype=draw.dtype),
            "return_dict": False,
        },
        casts="rotary embedding",
    ),
    entry(
        "WanDecoder",
        lambda heads: Decoder(
            models.AutoencoderKLWan(
                base_dim=heads * 2,
                z_dim=4,
                dim_mult=[1, 2],
                num_res_blocks=1,
                temperal_downsample=[True],
                latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            )
        ),
        lambda draw: {"latents": draw.tokens(4, 3, 6, 10)},
    ),
    entry(
        "LTXDecoder",
        lambda heads: Decoder(
            models.AutoencoderKLLTXVideo(
                in_channels=3,
                out_channels=3,
                latent_channels=8,
                block_out_channels=(heads, heads, heads, heads),
                decoder_block_out_channels=(heads, heads, heads, heads),
                layers_per_block=(1, 1, 1, 1, 1),
                decoder_layers_per_block=(1, 1, 1, 1, 1),
                patch_size=1,
            )
        ),
        lambda draw: {"latents": draw.tokens(8, 3, 3, 5)},
        casts="norms",
    ),
    entry(
        "CogVideoXDecoder",
        lambda heads: Decoder(
            models.AutoencoderKLCogVideoX(
                block_out_channels=(heads * 2, heads * 2),
                down_block_types=("CogVideoXDownBlock3D",) * 2,
                up_block_types=("CogVideoXUpBlock3D",) * 2,
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                temporal_compression_ratio=2,
            )
        ),
        lambda draw: {"latents": draw.tokens(4, 3, 6, 10)},
    ),
    entry(
        "HunyuanVideoDecoder",
        lambda heads: Decoder(
            models.AutoencoderKLHunyuanVideo(
                latent_channels=4,
                block_out_channels=(heads * 2,) * 4,
                layers_per_block=1,
                norm_num_groups=2,
            )
        ),
        lambda draw: {"latents": draw.tokens(4, 2, 4, 6)},
    ),
    entry("VisionTransformer", VisionTransformer, lambda draw: {"pixels": draw.tokens(3, 28, 44)}),
    entry("Hybrid", Hybrid, lambda draw: {"frames": draw.tokens(95, 6), "time": draw.fraction()}),
)
