"""Image transformers of diffusers with text summaries, packed segments, blocks of images and towers by modality."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models import transformers
from diffusers.models.transformers.transformer_2d_dreamlite import DreamLiteTransformer2DModel
from diffusers.models.transformers.transformer_bria_fibo2 import BriaFibo2Transformer2DModel

from .cases import Draw, ZooCase, entry

TEXT, TEXT_DIM = 10, 16
ROPE = "rotary embedding"


def _segments(draw: Draw) -> dict[str, Any]:
    """Two samples packed into one sequence, each of text and image tokens; the border between them moves."""
    border, length = 90 + draw.seed, 187
    at = torch.arange(length)
    segment = (at >= border).long()
    start = segment * border
    text = at - start < 6 + draw.seed
    return {
        "hidden_states": draw.tokens(length, 8),
        "timestep": draw.fraction(),
        "encoder_hidden_states": draw.tokens(length, TEXT_DIM),
        "position_ids": torch.stack([at - start, at % 11, at % 17], dim=-1).expand(draw.batch, -1, -1),
        "segment_ids": segment.expand(draw.batch, -1),
        "indicator": torch.where(text, 3, 2).expand(draw.batch, -1),
        "return_dict": False,
    }


def _blocks_of_images(draw: Draw) -> dict[str, Any]:
    """Text, one image to look at and the one to make; every fourth image token holds a slot among the text."""
    shown, made = (1, 4, 6), (1, 10, 14)
    slots = torch.zeros(draw.batch, 12 + 6 + 35, dtype=torch.bool)
    slots[:, 5 + draw.seed % 2 : 11 + draw.seed % 2] = True
    slots[:, 18:] = True
    return {
        "hidden_states": draw.tokens(24 + 140, 8),
        "encoder_hidden_states": draw.tokens(18, TEXT_DIM),
        "timestep": draw.fraction(),
        "img_shapes": [[shown, made]],
        "img_mask": slots,
        "return_dict": False,
    }


MORE_IMAGE: tuple[ZooCase, ...] = (
    entry(
        "BriaFibo2",
        lambda heads: BriaFibo2Transformer2DModel(
            in_channels=4,
            dim=heads * 12,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=heads,
            cap_feat_dim=TEXT_DIM,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=8,
            max_num_gist_tokens=16,
            gist_step=4,
            gist_min_text_len=8,
            gist_max_text_len=32,
            axes_dims=(4, 4, 4),
            axes_lens=(64, 32, 32),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 22, 34),
            "timestep": draw.fraction(),
            "encoder_hidden_states": draw.tokens(2, 21, TEXT_DIM),
            "encoder_attention_mask": draw.mask(21).bool(),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "DreamLite",
        lambda heads: DreamLiteTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=16,
            num_layers=2,
            norm_num_groups=4,
            cross_attention_dim=TEXT_DIM,
            qk_norm="rms_norm",
        ),
        lambda draw: {
            "hidden_states": draw.tokens(16, 11, 17),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_attention_mask": draw.mask(TEXT),
            "return_dict": False,
        },
    ),
    entry(
        "Flux3",
        lambda heads: transformers.Flux3Transformer2DModel(
            in_channels=8,
            cond_in_channels=8,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            joint_attention_dim=TEXT_DIM,
            timestep_channels=16,
            axes_dims_rope=(4, 4, 2, 2),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(187, 8),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "timestep": draw.fraction(),
            "img_ids": torch.cat([draw.ids(11, 17), draw.ids(11, 17)[:, :1]], dim=1),
            "txt_ids": torch.full((TEXT, 4), 0.25 * draw.seed, dtype=draw.dtype),
            "image_cond_hidden_states": draw.tokens(35, 8),
            "image_cond_ids": torch.cat([draw.ids(5, 7), draw.ids(5, 7)[:, :1] + 1], dim=1),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "Ideogram4",
        lambda heads: transformers.Ideogram4Transformer2DModel(
            in_channels=8,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            intermediate_size=192,
            adaln_dim=16,
            llm_features_dim=TEXT_DIM,
            mrope_section=(2, 2, 2),
        ),
        _segments,
        casts=ROPE,
    ),
    entry(
        "JoyImageEditPlus",
        lambda heads: transformers.JoyImageEditPlusTransformer3DModel(
            in_channels=4,
            hidden_size=heads * 12,
            num_attention_heads=heads,
            text_dim=TEXT_DIM,
            num_layers=2,
            rope_dim_list=[4, 4, 4],
        ),
        lambda draw: {
            "hidden_states": draw.tokens(110, 4, 1, 2, 2),
            "timestep": draw.timestep(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_hidden_states_mask": draw.mask(TEXT),
            "shape_list": [[(1, 5, 7), (2, 5, 7)]] * draw.batch,
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "QwenImage21",
        lambda heads: transformers.QwenImage21Transformer2DModel(
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            context_in_dim=TEXT_DIM,
            axes_dims_rope=(4, 4, 4),
        ),
        _blocks_of_images,
        casts=ROPE,
    ),
)
