"""Image transformers of diffusers that take packed patches with positions: 11 × 17 tokens, and 10 of text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import models

from .cases import Draw, ZooCase, entry

TEXT, TEXT_DIM = 10, 16


def _packed(draw: Draw, **more: Any) -> dict[str, Any]:
    """Patches as a sequence, with positions."""
    return {
        "hidden_states": draw.tokens(187, 8),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "timestep": draw.fraction(),
        "img_ids": draw.ids(11, 17),
        "txt_ids": torch.full((TEXT, 3), 0.25 * draw.seed, dtype=draw.dtype),
        "return_dict": False,
        **more,
    }


FLUX_LIKE: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 1,
    "attention_head_dim": 12,
    "joint_attention_dim": TEXT_DIM,
    "axes_dims_rope": (4, 4, 4),
}
ROPE = "rotary embedding"

PACKED: tuple[ZooCase, ...] = (
    entry(
        "Chroma",
        lambda heads: models.ChromaTransformer2DModel(
            num_attention_heads=heads,
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
            **FLUX_LIKE,
        ),
        _packed,
        casts=ROPE,
    ),
    entry(
        "Bria",
        lambda heads: models.BriaTransformer2DModel(num_attention_heads=heads, **FLUX_LIKE),
        lambda draw: _packed(draw, timestep=draw.timestep()),
        casts=ROPE,
    ),
    entry(
        "BriaFibo",
        lambda heads: models.BriaFiboTransformer2DModel(num_attention_heads=heads, text_encoder_dim=8, **FLUX_LIKE),
        lambda draw: _packed(
            draw, timestep=draw.timestep(), text_encoder_layers=[draw.tokens(TEXT, 8) for _ in range(3)]
        ),
        casts=ROPE,
    ),
    entry(
        "LongCatImage",
        lambda heads: models.LongCatImageTransformer2DModel(
            num_attention_heads=heads, pooled_projection_dim=8, **FLUX_LIKE
        ),
        _packed,
        casts=ROPE,
    ),
    entry(
        "OvisImage",
        lambda heads: models.OvisImageTransformer2DModel(num_attention_heads=heads, out_channels=8, **FLUX_LIKE),
        _packed,
        casts=ROPE,
    ),
    entry(
        "Flux2",
        lambda heads: models.Flux2Transformer2DModel(
            num_attention_heads=heads,
            timestep_guidance_channels=16,
            **{**FLUX_LIKE, "axes_dims_rope": (4, 4, 2, 2)},
        ),
        lambda draw: _packed(
            draw,
            img_ids=torch.cat([draw.ids(11, 17), draw.ids(11, 17)[:, :1]], dim=1),
            txt_ids=torch.full((TEXT, 4), 0.25 * draw.seed, dtype=draw.dtype),
            guidance=draw.scalar(3.5),
        ),
        casts=ROPE,
    ),
)
