"""Video transformers of diffusers: 5 × 5 × 7 tokens in most of them, and 10 of text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import models
from diffusers.models.transformers import TransformerTemporalModel
from torch import Tensor

from .cases import Draw, ZooCase, entry, in_fp32

F, H, W, TEXT, TEXT_DIM = 5, 10, 14, 10, 16
"""The latent grid, of which 2 × 2 patches make 175 tokens, and the text."""


def _basic(draw: Draw, channels: int = 4, **more: Any) -> dict[str, Any]:
    """Channels first, one timestep, text."""
    return {
        "hidden_states": draw.tokens(channels, F, H, W),
        "timestep": draw.timestep(),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "return_dict": False,
        **more,
    }


def _frames_first(draw: Draw, **more: Any) -> dict[str, Any]:
    return _basic(draw, **{"hidden_states": draw.tokens(F, 4, H, W), **more})


def _rotary(draw: Draw, tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(tokens) + draw.seed, 1.0 / 100 ** torch.linspace(0, 1, head_dim // 2))
    angles = angles.repeat_interleave(2, dim=1).to(draw.dtype)
    return angles.cos(), angles.sin()


def _per_frame(draw: Draw, share: float) -> Tensor:
    return (share * draw.fraction())[:, None].expand(-1, F)


def _grid_positions() -> tuple[Tensor, ...]:
    grid = torch.meshgrid(torch.arange(F), torch.arange(H // 2), torch.arange(W // 2), indexing="ij")
    return tuple(axis.reshape(1, -1) for axis in grid)


WAN_LIKE: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
COGVIDEO_LIKE: dict[str, Any] = {
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": TEXT_DIM,
    "num_layers": 2,
    "sample_width": W,
    "sample_height": H,
    "sample_frames": 4 * F - 3,
    "max_text_seq_length": TEXT,
}
HUNYUAN_LIKE: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 12,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT_DIM,
    "rope_axes_dim": (4, 4, 4),
}

VIDEO: tuple[ZooCase, ...] = (
    entry(
        "CogVideoX",
        lambda heads: models.CogVideoXTransformer3DModel(num_attention_heads=heads, **COGVIDEO_LIKE),
        _frames_first,
        odd=(12,),
    ),
    entry(
        "CogVideoX-rotary",
        lambda heads: models.CogVideoXTransformer3DModel(
            num_attention_heads=heads, use_rotary_positional_embeddings=True, **COGVIDEO_LIKE
        ),
        lambda draw: _frames_first(draw, image_rotary_emb=_rotary(draw, 175, 12)),
        casts="rotary embedding",
        odd=(12,),
    ),
    entry(
        "ConsisID",
        lambda heads: models.ConsisIDTransformer3DModel(num_attention_heads=heads, **COGVIDEO_LIKE),
        _frames_first,
        odd=(12,),
    ),
    entry(
        "Mochi",
        lambda heads: models.MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=TEXT_DIM,
            time_embed_dim=8,
            max_sequence_length=TEXT,
        ),
        lambda draw: _basic(draw, encoder_attention_mask=draw.either_mask(TEXT).bool()),
        casts="norms and rotary embedding",
    ),
    entry(
        "Allegro",
        lambda heads: models.AllegroTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            cross_attention_dim=heads * 12,
            sample_width=W,
            sample_height=H,
            sample_frames=F,
            caption_channels=TEXT_DIM,
        ),
        lambda draw: _basic(
            draw,
            attention_mask=torch.ones(draw.batch, F, H, W, dtype=draw.dtype),
            encoder_attention_mask=draw.mask(TEXT)[:, None].to(draw.dtype),
            image_rotary_emb=([_rotary(draw, 16, 4)] * 3, _grid_positions()),
        ),
    ),
    entry(
        "Latte",
        lambda heads: models.LatteTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=heads * 12,
            attention_bias=True,
            sample_size=10,
            patch_size=2,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            caption_channels=TEXT_DIM,
            video_length=F,
        ),
        lambda draw: _basic(draw, hidden_states=draw.tokens(4, F, 10, 10)),
    ),
    entry(
        "EasyAnimate",
        lambda heads: models.EasyAnimateTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            sample_width=W,
            sample_height=H,
            num_layers=2,
            mmdit_layers=1,
            time_embed_dim=8,
            text_embed_dim=TEXT_DIM,
        ),
        _basic,
        casts="norms and rotary embedding",
    ),
    entry(
        "Cosmos",
        lambda heads: in_fp32(
            models.CosmosTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=heads,
                attention_head_dim=16,
                num_layers=2,
                mlp_ratio=2,
                text_embed_dim=TEXT_DIM,
                adaln_lora_dim=4,
                max_size=(F, H, W),
                rope_scale=(2.0, 1.0, 1.0),
                concat_padding_mask=False,
                extra_pos_embed_type="learnable",
            ),
            "learnable_pos_embed",
        ),
        lambda draw: _basic(
            draw,
            fps=30,
            attention_mask=draw.mask(TEXT).bool(),
        ),
        casts="norms",
    ),
    entry(
        "SkyReelsV2",
        lambda heads: models.SkyReelsV2Transformer3DModel(num_attention_heads=heads, **WAN_LIKE),
        _basic,
        casts="norms and modulation",
    ),
    entry(
        "WanVACE",
        lambda heads: models.WanVACETransformer3DModel(
            num_attention_heads=heads, vace_layers=[0], vace_in_channels=8, **WAN_LIKE
        ),
        lambda draw: _basic(draw, control_hidden_states=draw.tokens(8, F, H, W)),
        casts="norms and modulation",
    ),
    entry(
        "ChronoEdit",
        lambda heads: models.ChronoEditTransformer3DModel(num_attention_heads=heads, **WAN_LIKE),
        _basic,
        casts="norms and modulation",
    ),
    entry(
        "AnyFlow",
        lambda heads: models.AnyFlowTransformer3DModel(num_attention_heads=heads, **WAN_LIKE),
        lambda draw: _basic(
            draw,
            hidden_states=draw.tokens(F, 4, H, W),
            timestep=_per_frame(draw, 1.0),
            r_timestep=_per_frame(draw, 0.5),
        ),
        casts="norms and modulation",
    ),
    entry(
        "HunyuanVideo15",
        lambda heads: models.HunyuanVideo15Transformer3DModel(
            num_attention_heads=heads,
            patch_size=1,
            patch_size_t=1,
            text_embed_2_dim=12,
            image_embed_dim=12,
            task_type="t2v",
            target_size=16,
            **HUNYUAN_LIKE,
        ),
        lambda draw: _basic(
            draw,
            hidden_states=draw.tokens(4, F, 5, 7),
            timestep=draw.real_timestep(),
            encoder_attention_mask=draw.either_mask(TEXT),
            encoder_hidden_states_2=draw.tokens(7, 12),
            encoder_attention_mask_2=draw.either_mask(7),
            image_embeds=torch.zeros(draw.batch, 3, 12, dtype=draw.dtype),
        ),
        casts="norms and rotary embedding",
    ),
    entry(
        "HunyuanVideoFramepack",
        lambda heads: models.HunyuanVideoFramepackTransformer3DModel(
            num_attention_heads=heads,
            num_single_layers=1,
            pooled_projection_dim=8,
            has_image_proj=True,
            has_clean_x_embedder=True,
            image_proj_dim=12,
            **{**HUNYUAN_LIKE, "num_layers": 1},
        ),
        lambda draw: _basic(
            draw,
            encoder_attention_mask=draw.either_mask(TEXT),
            pooled_projections=draw.tokens(8),
            image_embeds=draw.tokens(3, 12),
            indices_latents=torch.arange(F) + draw.seed,
            guidance=draw.scalar(6000.0),
            latents_clean=draw.tokens(4, 2, H, W),
            indices_latents_clean=torch.arange(2) + draw.seed,
            latents_history_2x=draw.tokens(4, 2, 12, 16),
            indices_latents_history_2x=torch.arange(2) + draw.seed,
            latents_history_4x=draw.tokens(4, 4, 16, 16),
            indices_latents_history_4x=torch.arange(4) + draw.seed,
        ),
        casts="norms and rotary embedding",
    ),
    entry(
        "SanaVideo",
        lambda heads: models.SanaVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=heads,
            cross_attention_head_dim=12,
            cross_attention_dim=heads * 12,
            caption_channels=TEXT_DIM,
            sample_size=8,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        lambda draw: _basic(draw, encoder_attention_mask=draw.mask(TEXT)),
        casts="linear attention",
    ),
    entry(
        "LTX2",
        lambda heads: models.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=12,
            cross_attention_dim=heads * 12,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=heads,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=heads * 8,
            num_layers=2,
            caption_channels=TEXT_DIM,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(175, 4),
            "audio_hidden_states": draw.tokens(23, 4),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "audio_encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "timestep": draw.timestep(),
            "encoder_attention_mask": draw.mask(TEXT),
            "audio_encoder_attention_mask": draw.mask(TEXT),
            "num_frames": F,
            "height": 5,
            "width": 7,
            "audio_num_frames": 23,
            "return_dict": False,
        },
        casts="rotary embedding",
    ),
    entry(
        "Kandinsky5",
        lambda heads: in_fp32(
            models.Kandinsky5Transformer3DModel(
                in_visual_dim=4,
                in_text_dim=TEXT_DIM,
                in_text_dim2=8,
                time_dim=16,
                out_visual_dim=4,
                model_dim=heads * 16,
                ff_dim=64,
                num_text_blocks=1,
                num_visual_blocks=2,
                axes_dims=(4, 6, 6),
            ),
            "time_embeddings",
        ),
        lambda draw: {
            "hidden_states": draw.tokens(F, H, W, 4),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "timestep": draw.timestep(),
            "pooled_projections": draw.tokens(8),
            "visual_rope_pos": [torch.arange(F), torch.arange(5), torch.arange(7)],
            "text_rope_pos": torch.arange(TEXT),
            "return_dict": False,
        },
        casts="modulation; rotary embedding, to bf16",
        half=True,
    ),
    entry(
        "MotifVideo",
        lambda heads: models.MotifVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            num_single_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_DIM,
            rope_axes_dim=(4, 4, 4),
        ),
        lambda draw: _basic(draw, encoder_attention_mask=draw.mask(TEXT)),
        casts="time embedding",
        dtype=torch.float32,
    ),
    entry(
        "TransformerTemporal",
        lambda heads: TransformerTemporalModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=32,
            num_layers=2,
            norm_num_groups=4,
            cross_attention_dim=None,
        ),
        lambda draw: {
            "hidden_states": draw.randn(7, 32, 5, 5),
            "num_frames": 7,
            "return_dict": False,
        },
    ),
)
