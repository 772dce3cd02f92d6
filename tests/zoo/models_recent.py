"""Image transformers of diffusers with experts, layer-wise text, prior tokens and frames of several images."""

from __future__ import annotations

import torch
from diffusers.models import transformers
from torch import nn

from .cases import ZooCase, entry

TEXT, TEXT_DIM = 10, 16
ROPE = "rotary embedding"


def _with_experts(heads: int) -> nn.Module:
    model = transformers.NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=(4, 6, 6),
        num_experts=4,
        moe_intermediate_dim=24,
        dense_moe_strategy="leave_first_block_dense",
        capacity_factors=[2.0] * 3,
    )
    for parameter in model.parameters():
        if parameter.dim() == 3:  # the experts' weights come uninitialised
            nn.init.normal_(parameter, std=0.1)
    return model  # type: ignore[no-any-return]


RECENT: tuple[ZooCase, ...] = (
    entry(
        "NucleusMoE",
        _with_experts,
        lambda draw: {
            "hidden_states": draw.tokens(187, 16),
            "img_shapes": [(1, 11, 17)],
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_hidden_states_mask": draw.mask(TEXT),
            "timestep": draw.fraction(),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "Krea2",
        lambda heads: transformers.Krea2Transformer2DModel(
            in_channels=8,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            intermediate_size=64,
            timestep_embed_dim=16,
            text_hidden_dim=48,
            num_text_layers=3,
            text_num_attention_heads=4,
            text_num_key_value_heads=4,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 4, 4),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(187, 8),
            "encoder_hidden_states": draw.tokens(TEXT, 3, 48),
            "timestep": draw.fraction(),
            "position_ids": torch.cat([torch.zeros(TEXT, 3, dtype=draw.dtype), draw.ids(11, 17)]),
            "encoder_attention_mask": draw.mask(TEXT).bool(),
            "return_dict": False,
        },
        casts=ROPE,
        odd=(10, 12),
    ),
    entry(
        "ErnieImage",
        lambda heads: transformers.ErnieImageTransformer2DModel(
            hidden_size=heads * 12,
            num_attention_heads=heads,
            num_layers=2,
            ffn_hidden_size=64,
            in_channels=4,
            out_channels=4,
            text_in_dim=TEXT_DIM,
            rope_axes_dim=(4, 4, 4),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 11, 17),
            "timestep": draw.timestep(),
            "text_bth": draw.tokens(TEXT, TEXT_DIM),
            "text_lens": torch.full((draw.batch,), TEXT - 2 - draw.seed),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "JoyImageEdit",
        lambda heads: transformers.JoyImageEditTransformer3DModel(
            in_channels=4,
            hidden_size=heads * 12,
            num_attention_heads=heads,
            text_dim=TEXT_DIM,
            num_layers=2,
            rope_dim_list=[4, 4, 4],
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 3, 10, 14),
            "timestep": draw.timestep(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "GlmImage",
        lambda heads: transformers.GlmImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            text_embed_dim=TEXT_DIM,
            time_embed_dim=8,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=50,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 22, 34),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "prior_token_id": draw.integers(50, 187),
            "prior_token_drop": torch.zeros(draw.batch, 187, dtype=torch.bool),
            "timestep": draw.timestep(),
            "target_size": draw.tokens(2) + 200,
            "crop_coords": draw.tokens(2),
            "return_dict": False,
        },
        casts=ROPE,
    ),
)
