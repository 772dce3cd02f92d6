"""Small configurations of four diffusers DiTs that every suite runs: Wan, HunyuanVideo, LTX-Video and Flux.

They are small, and still awkward: 2, 3 and 4 divide neither the video tokens nor the joint sequences, and the variants
have 9 and 10 heads. Nothing in them is zero or constant at the start, so no part of a model can be lost unnoticed.

    case = CASES[0]
    model = case.build()
    output = model(**case.inputs(seed=0))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import (
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    WanTransformer3DModel,
)
from torch import nn

FRAMES, HEIGHT, WIDTH = 5, 5, 7
"""Latent grid in tokens: 175 of them."""
TEXT = 10
"""Text tokens: 185 tokens in HunyuanVideo's joint sequence, 197 in Flux's."""
TEXT_DIM = 16
CHANNELS = 4

Inputs = dict[str, Any]


class _MakeInputs(Protocol):
    def __call__(self, seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs: ...


@dataclass(frozen=True)
class ModelCase:
    """One model and its inputs.

    Attributes:
        name: id for tests, e.g. "wan-8heads".
        heads: attention heads.
    """

    name: str
    heads: int
    _make: Callable[[int], nn.Module]
    _make_inputs: _MakeInputs

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A new model in eval mode; the same weights at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(self.heads)
            model = self._make(self.heads)
            stir(model)
        # The base class, since diffusers warns where its own `to` casts.
        return nn.Module.to(model.eval(), dtype)

    def inputs(self, seed: int, dtype: torch.dtype = torch.float32, batch: int = 1) -> Inputs:
        """Keyword arguments; seeds differ in every value, masks and timesteps included, and agree in shapes."""
        return self._make_inputs(seed, dtype, batch, torch.Generator().manual_seed(seed))


def stir(model: nn.Module) -> None:
    """Move weights off their constant starting values: output layers of zeros, biases of zeros, norms of ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn_like(parameter))


def _wan(heads: int) -> nn.Module:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=24 * heads,
        num_layers=3,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def _wan_inputs(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
    return {
        "hidden_states": _randn(generator, dtype, batch, CHANNELS, FRAMES, 2 * HEIGHT, 2 * WIDTH),
        "timestep": _timestep(seed, batch),
        "encoder_hidden_states": _randn(generator, dtype, batch, TEXT, TEXT_DIM),
        "return_dict": False,
    }


def _hunyuan(heads: int) -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    )


def _hunyuan_inputs(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
    lengths = torch.tensor([[TEXT - 2 - (seed + row) % 5] for row in range(batch)])
    return {
        "hidden_states": _randn(generator, dtype, batch, CHANNELS, FRAMES, 2 * HEIGHT, 2 * WIDTH),
        "timestep": _timestep(seed, batch),
        "encoder_hidden_states": _randn(generator, dtype, batch, TEXT, TEXT_DIM),
        "encoder_attention_mask": (torch.arange(TEXT)[None] < lengths).long(),
        "pooled_projections": _randn(generator, dtype, batch, 8),
        "guidance": torch.full((batch,), 6000.0 - 500.0 * seed, dtype=dtype),
        "return_dict": False,
    }


def _ltx(heads: int) -> nn.Module:
    head_dim = 14
    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        cross_attention_dim=heads * head_dim,
        num_layers=3,
        caption_channels=TEXT_DIM,
    )


def _ltx_inputs(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
    lengths = torch.tensor([[TEXT - 2 - (seed + row) % 5] for row in range(batch)])
    return {
        "hidden_states": _randn(generator, dtype, batch, FRAMES * HEIGHT * WIDTH, 8),
        "encoder_hidden_states": _randn(generator, dtype, batch, TEXT, TEXT_DIM),
        "timestep": _timestep(seed, batch),
        "encoder_attention_mask": (torch.arange(TEXT)[None] < lengths).long(),
        "num_frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "rope_interpolation_scale": (8 / 25, 32, 32),
        "return_dict": False,
    }


def _flux(heads: int) -> nn.Module:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=12,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=8,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    )


def _flux_inputs(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
    rows, columns = 11, 17
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    image_ids = torch.cat([torch.zeros(rows * columns, 1), grid + seed], dim=1)
    return {
        "hidden_states": _randn(generator, dtype, batch, rows * columns, 8),
        "encoder_hidden_states": _randn(generator, dtype, batch, TEXT, TEXT_DIM),
        "pooled_projections": _randn(generator, dtype, batch, 8),
        "timestep": torch.full((batch,), 0.5 + 0.1 * seed, dtype=dtype),
        "img_ids": image_ids.to(dtype),
        "txt_ids": torch.full((TEXT, 3), 0.25 * seed, dtype=dtype),
        "guidance": torch.full((batch,), 3.5 + seed, dtype=dtype),
        "return_dict": False,
    }


def _randn(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    # Drawn in fp64, so that the values of one seed are the same in every dtype up to rounding.
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _timestep(seed: int, batch: int) -> torch.Tensor:
    return torch.full((batch,), 500 + 37 * seed)


_MODELS: dict[str, tuple[Callable[[int], nn.Module], _MakeInputs]] = {
    "wan": (_wan, _wan_inputs),
    "hunyuan": (_hunyuan, _hunyuan_inputs),
    "ltx": (_ltx, _ltx_inputs),
    "flux": (_flux, _flux_inputs),
}


def case(model: str, heads: int = 8) -> ModelCase:
    """``model`` is one of "wan", "hunyuan", "ltx", "flux"."""
    make, make_inputs = _MODELS[model]
    return ModelCase(f"{model}-{heads}heads", heads, make, make_inputs)


CASES = tuple(case(model) for model in _MODELS)
"""The four models with 8 heads."""

ODD_CASES = tuple(case(model, heads) for model in _MODELS for heads in (9, 10))
"""The same with head counts that some of 2, 3 and 4 do not divide."""
