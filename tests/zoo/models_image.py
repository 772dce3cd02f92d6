"""Image transformers of diffusers: 5 × 7 to 11 × 17 tokens, and 10 of text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import models
from diffusers.models.transformers import DiTTransformer2DModel, Transformer2DModel

from .cases import Draw, ZooCase, entry

H, W = 22, 34
"""2 × 2 patches make 187 tokens of it."""
TEXT, TEXT_DIM = 10, 16


def _basic(draw: Draw, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": draw.tokens(4, H, W),
        "timestep": draw.timestep(),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "return_dict": False,
        **more,
    }


def _sizes(draw: Draw) -> dict[str, Any]:
    size = torch.tensor([[176.0 + draw.seed, 272.0]], dtype=draw.dtype).expand(draw.batch, 2)
    return {"original_size": size, "target_size": size, "crop_coords": size - 170}


ROPE = "rotary embedding"

IMAGE: tuple[ZooCase, ...] = (
    entry(
        "SD3",
        lambda heads: models.SD3Transformer2DModel(
            sample_size=40,
            in_channels=4,
            num_layers=3,
            attention_head_dim=12,
            num_attention_heads=heads,
            joint_attention_dim=TEXT_DIM,
            caption_projection_dim=heads * 12,
            pooled_projection_dim=8,
            out_channels=4,
            pos_embed_max_size=20,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        lambda draw: _basic(draw, pooled_projections=draw.tokens(8)),
    ),
    entry(
        "AuraFlow",
        lambda heads: models.AuraFlowTransformer2DModel(
            sample_size=40,
            num_mmdit_layers=2,
            num_single_dit_layers=1,
            attention_head_dim=12,
            num_attention_heads=heads,
            joint_attention_dim=TEXT_DIM,
            caption_projection_dim=heads * 12,
            pos_embed_max_size=400,
        ),
        lambda draw: _basic(draw, timestep=draw.fraction()),
        casts="norms",
    ),
    entry(
        "Sana",
        lambda heads: models.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=heads,
            cross_attention_head_dim=12,
            cross_attention_dim=heads * 12,
            caption_channels=TEXT_DIM,
        ),
        lambda draw: _basic(draw, hidden_states=draw.tokens(4, 11, 17), encoder_attention_mask=draw.mask(TEXT)),
        casts="linear attention",
    ),
    entry(
        "QwenImage",
        lambda heads: models.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=heads,
            joint_attention_dim=TEXT_DIM,
            axes_dims_rope=(4, 6, 6),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(187, 16),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_hidden_states_mask": draw.mask(TEXT),
            "timestep": draw.fraction(),
            "img_shapes": [[(1, 11, 17)]] * draw.batch,
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "Lumina2",
        lambda heads: models.Lumina2Transformer2DModel(
            sample_size=40,
            in_channels=4,
            hidden_size=heads * 12,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=heads,
            num_kv_heads=heads // 2,
            multiple_of=16,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(64, 64, 64),
            cap_feat_dim=TEXT_DIM,
        ),
        lambda draw: _basic(draw, timestep=draw.fraction(), encoder_attention_mask=draw.mask(TEXT).bool()),
        casts=ROPE,
    ),
    entry(
        "LuminaNext",
        lambda heads: models.LuminaNextDiT2DModel(
            sample_size=40,
            hidden_size=heads * 12,
            num_layers=2,
            num_attention_heads=heads,
            num_kv_heads=heads // 2,
            multiple_of=16,
            cross_attention_dim=TEXT_DIM,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, H, W),
            "timestep": draw.fraction(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_mask": draw.mask(TEXT),
            "image_rotary_emb": torch.polar(torch.ones(40, 40, 6, dtype=draw.dtype), draw.randn(40, 40, 6)),
            "cross_attention_kwargs": {},
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "PixArt",
        lambda heads: models.PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            cross_attention_dim=heads * 12,
            sample_size=40,
            caption_channels=TEXT_DIM,
            use_additional_conditions=False,
        ),
        lambda draw: _basic(
            draw,
            encoder_attention_mask=draw.mask(TEXT),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ),
    ),
    entry(
        "HunyuanDiT",
        lambda heads: models.HunyuanDiT2DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=4,
            patch_size=2,
            sample_size=40,
            hidden_size=heads * 12,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=TEXT_DIM,
            cross_attention_dim_t5=16,
            pooled_projection_dim=8,
            text_len=TEXT,
            text_len_t5=7,
            use_style_cond_and_image_meta_size=False,
        ),
        lambda draw: _basic(
            draw,
            timestep=draw.real_timestep(),
            text_embedding_mask=draw.mask(TEXT),
            encoder_hidden_states_t5=draw.tokens(7, 16),
            text_embedding_mask_t5=draw.mask(7),
            image_rotary_emb=[draw.randn(187, 12).cos(), draw.randn(187, 12).sin()],
        ),
        casts=ROPE,
    ),
    entry(
        "CogView3Plus",
        lambda heads: models.CogView3PlusTransformer2DModel(
            in_channels=4,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            out_channels=4,
            text_embed_dim=TEXT_DIM,
            time_embed_dim=8,
            condition_dim=2,
            pos_embed_max_size=40,
            sample_size=40,
        ),
        lambda draw: _basic(draw, **_sizes(draw)),
    ),
    entry(
        "CogView4",
        lambda heads: models.CogView4Transformer2DModel(
            in_channels=4,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            out_channels=4,
            text_embed_dim=TEXT_DIM,
            time_embed_dim=8,
            condition_dim=4,
            pos_embed_max_size=40,
            sample_size=40,
            rope_axes_dim=(20, 20),
        ),
        lambda draw: _basic(draw, **_sizes(draw)),
        casts=ROPE,
    ),
    entry(
        "HunyuanImage",
        lambda heads: models.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            num_single_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_DIM,
            rope_axes_dim=(6, 6),
        ),
        lambda draw: _basic(
            draw,
            hidden_states=draw.tokens(4, 11, 17),
            timestep=draw.real_timestep(),
            encoder_attention_mask=draw.mask(TEXT),
        ),
        casts=ROPE,
    ),
    entry(
        "OmniGen",
        lambda heads: models.OmniGenTransformer2DModel(
            in_channels=4,
            hidden_size=heads * 12,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=64,
            num_layers=2,
            pad_token_id=0,
            vocab_size=100,
            max_position_embeddings=1000,
            original_max_position_embeddings=500,
            rope_scaling={"long_factor": list(range(1, 7)), "short_factor": list(range(1, 7))},
            pos_embed_max_size=40,
            time_step_dim=16,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, H, W),
            "timestep": draw.fraction(),
            "input_ids": draw.integers(100, 30),
            "input_img_latents": [draw.randn(1, 4, 8, 10)],
            "input_image_sizes": {0: [[3, 23]]},
            "attention_mask": torch.ones(draw.batch, 30 + 188, 30 + 188, dtype=torch.long).tril(),
            "position_ids": torch.arange(30 + 188)[None].expand(draw.batch, -1),
            "return_dict": False,
        },
        casts=ROPE,
        dtype=torch.float32,
    ),
    entry(
        "ZImage",
        lambda heads: models.ZImageTransformer2DModel(
            in_channels=4,
            dim=heads * 16,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=heads,
            n_kv_heads=heads,
            cap_feat_dim=TEXT_DIM,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 32, 32],
        ),
        lambda draw: {
            "x": [draw.randn(4, 1, H, W) for _ in range(draw.batch)],
            "t": draw.fraction(),
            "cap_feats": [draw.randn(TEXT, TEXT_DIM) for _ in range(draw.batch)],
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "HiDream",
        lambda heads: models.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=12,
            num_attention_heads=heads,
            caption_channels=[TEXT_DIM, 12],
            text_emb_dim=8,
            axes_dims_rope=(4, 4, 4),
            max_resolution=(40, 40),
            llama_layers=(0, 1),
            force_inference_output=True,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 22, 22),
            "encoder_hidden_states_t5": draw.tokens(TEXT, TEXT_DIM),
            "encoder_hidden_states_llama3": draw.randn(2, draw.batch, 7, 12),
            "pooled_embeds": draw.tokens(8),
            "timesteps": draw.timestep(),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "PRX",
        lambda heads: models.PRXTransformer2DModel(
            in_channels=4,
            context_in_dim=TEXT_DIM,
            hidden_size=heads * 12,
            mlp_ratio=2.0,
            num_heads=heads,
            depth=2,
            axes_dim=[6, 6],
        ),
        lambda draw: _basic(draw, timestep=draw.fraction(), attention_mask=draw.mask(TEXT).bool()),
        casts=ROPE,
    ),
    entry(
        "DiT",
        lambda heads: DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=12, num_layers=2, sample_size=22, num_embeds_ada_norm=1000
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 22, 22),
            "timestep": draw.timestep(),
            "class_labels": draw.integers(1000),
            "return_dict": False,
        },
    ),
    entry(
        "Transformer2D",
        lambda heads: Transformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=32,
            num_layers=2,
            norm_num_groups=8,
            cross_attention_dim=TEXT_DIM,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(32, 11, 17),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_attention_mask": draw.mask(TEXT),
            "return_dict": False,
        },
    ),
)
