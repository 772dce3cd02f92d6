"""Video transformers of diffusers with history, sound, references, cameras and sparse attention."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import models
from diffusers.models import transformers
from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache, WanAnimate2Transformer3DModel
from torch import Tensor, nn

from .cases import Draw, ZooCase, entry
from .models_video import TEXT, TEXT_DIM, WAN_LIKE, F, H, W

ROPE = "rotary embedding"


class WithReference(nn.Module):
    """One step of a model that reads its reference first and keeps the keys and values of it in a Python object."""

    def __init__(self, model: WanAnimate2Transformer3DModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, latents: Tensor, condition: Tensor, reference: Tensor, timestep: Tensor, text: Tensor, image: Tensor
    ) -> Tensor:
        cache = WanAnimate2KVCache(len(self.model.blocks))
        grid = torch.tensor([[1, reference.shape[2] // 2, reference.shape[3] // 2]])
        shared: dict[str, Any] = {
            "timestep": timestep,
            "encoder_hidden_states": [text],
            "encoder_hidden_states_image": image,
            "kv_cache": cache,
            "offset_grid_sizes": grid,
            "reference_grid_sizes": grid,
            "return_dict": False,
        }
        tokens = reference.shape[2] * reference.shape[3] // 4
        self.model(
            [reference[:4]], condition_latents=[reference[4:]], kv_cache_mode="extract", seq_len=tokens, **shared
        )
        frames, height, width = latents.shape[1:]
        (made,) = self.model(
            [latents],
            condition_latents=[condition],
            kv_cache_mode="cached",
            seq_len=frames * height * width // 4,
            origin_len=4 * frames - 3,
            origin_area=[8 * height, 8 * width],
            **shared,
        )
        return made[0]


def _modalities(draw: Draw) -> dict[str, Any]:
    """Text, video and audio tokens of one sequence, mixed in another order for every seed."""
    text, video, audio = TEXT, 140, 23
    length = text + video + audio
    order = torch.randperm(length, generator=draw.generator)
    tags = torch.zeros(length, dtype=torch.long)
    tags[order[text : text + video]], tags[order[text + video :]] = 1, 2
    at = torch.arange(length)
    return {
        "hidden_states": draw.tokens(video, 16),
        "audio_hidden_states": draw.tokens(audio, 6),
        "encoder_hidden_states": draw.tokens(text, TEXT_DIM),
        "timestep": torch.tensor([0, 500 + 37 * draw.seed]),
        "timestep_indices": (tags > 0).long(),
        "token_tags": tags,
        "position_ids": torch.stack([at // 35, at // 7 % 5, at % 7], dim=-1),
        "video_indices": order[text : text + video],
        "audio_indices": order[text + video :],
        "text_indices": order[:text],
        "return_dict": False,
    }


def _packed(draw: Draw) -> dict[str, Any]:
    """Text that is understood, and frames that are made, in one sequence."""
    tokens = F * (H // 2) * (W // 2)
    at = torch.arange(TEXT + tokens)
    noisy = torch.arange(1, F)
    return {
        "input_ids": torch.randint(50, (TEXT,), generator=draw.generator),
        "text_indexes": at[:TEXT],
        "position_ids": torch.stack([at // 35, at // 7 % 5, at % 7]) + draw.seed,
        "und_len": TEXT,
        "sequence_length": TEXT + tokens,
        "vision_tokens": [draw.randn(1, 4, F, H, W)],
        "vision_token_shapes": [(F, H // 2, W // 2)],
        "vision_sequence_indexes": at[TEXT:],
        "vision_mse_loss_indexes": at[TEXT + tokens // F :],
        "vision_timesteps": torch.full((tokens - tokens // F,), 500.0 + 37 * draw.seed).to(draw.dtype),
        "vision_noisy_frame_indexes": [noisy],
        "return_dict": False,
    }


MORE_VIDEO: tuple[ZooCase, ...] = (
    entry(
        "Helios",
        lambda heads: transformers.HeliosTransformer3DModel(
            num_attention_heads=heads,
            **{key: value for key, value in WAN_LIKE.items() if key != "rope_max_seq_len"},
            rope_dim=(4, 4, 4),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, F, H, W),
            "timestep": draw.timestep(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "indices_hidden_states": (torch.arange(F) + 7 + draw.seed).expand(draw.batch, -1),
            "indices_latents_history_short": (torch.arange(2) + 5 + draw.seed).expand(draw.batch, -1),
            "indices_latents_history_mid": (torch.arange(2) + 3 + draw.seed).expand(draw.batch, -1),
            "indices_latents_history_long": (torch.arange(4) + draw.seed).expand(draw.batch, -1),
            "latents_history_short": draw.tokens(4, 2, H, W),
            "latents_history_mid": draw.tokens(4, 2, H, W),
            "latents_history_long": draw.tokens(4, 4, H, W),
            "return_dict": False,
        },
        casts="norms and modulation",
    ),
    entry(
        "MiniMaxH3",
        lambda heads: transformers.MiniMaxH3Transformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            hidden_size=heads * 12,
            num_layers=2,
            num_refiner_layers=1,
            ffn_dim=192,
            in_channels=4,
            audio_in_channels=6,
            text_dim=TEXT_DIM,
            freq_dim=16,
            time_embed_hidden_dim=24,
            time_embed_dim=16,
            rope_freq_dim=2,
        ),
        _modalities,
        casts=ROPE,
    ),
    entry(
        "Kandinsky6",
        lambda heads: transformers.Kandinsky6Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=TEXT_DIM,
            in_text_dim2=8,
            time_dim=16,
            model_dim=heads * 12,
            ff_dim=64,
            num_text_blocks=1,
            num_visual_blocks=2,
            axes_dims=(4, 4, 4),
            in_audio_dim=6,
            out_audio_dim=6,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(F, H, W, 9),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "pooled_projections": draw.tokens(8),
            "timestep": draw.timestep(),
            "audio_hidden_states": draw.tokens(23, 6),
            "encoder_attention_mask": draw.mask(TEXT).bool(),
            "return_dict": False,
        },
        casts="modulation and rotary embedding",
    ),
    entry(
        "Kandinsky6SR",
        lambda heads: transformers.Kandinsky6SRTransformer3DModel(
            in_visual_dim=4,
            out_visual_dim=8,
            time_dim=16,
            model_dim=heads * 12,
            ff_dim=64,
            num_visual_blocks=2,
            axes_dims=(4, 4, 4),
            nabla_window=(3, 1, 1),
        ),
        lambda draw: {
            "hidden_states": draw.tokens(3, 16, 16, 9),
            "timestep": draw.timestep(),
            "return_dict": False,
        },
        flex=True,
        casts="modulation and rotary embedding",
    ),
    entry(
        "SanaWM",
        lambda heads: transformers.SanaWMTransformer3DModel(
            in_channels=4,
            num_layers=4,
            hidden_size=heads * 12,
            num_attention_heads=heads,
            linear_head_dim=12,
            caption_channels=TEXT_DIM,
            chunk_plucker_channels=6,
            softmax_every_n=2,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, 3, 5, 7),
            "timestep": draw.timestep()[:, None, None].expand(-1, 1, 3),
            "encoder_hidden_states": draw.tokens(1, TEXT, TEXT_DIM),
            "encoder_attention_mask": draw.mask(TEXT),
            "chunk_plucker": draw.tokens(6, 3, 5, 7),
            "return_dict": False,
        },
        casts="linear attention",
    ),
    entry(
        "SanaWMRefiner",
        lambda heads: SanaWMLTX2RefinerTransformer3DModel(
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
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "timestep": draw.timestep(),
            "video_rotary_emb": (draw.tokens(175, draw.heads * 12).cos(), draw.tokens(175, draw.heads * 12).sin()),
            "encoder_attention_mask": draw.mask(TEXT),
            "return_dict": False,
        },
        casts=ROPE,
    ),
    entry(
        "WanAnimate",
        lambda heads: models.WanAnimateTransformer3DModel(
            num_attention_heads=heads,
            **{**WAN_LIKE, "in_channels": 12, "num_layers": 2},
            latent_channels=4,
            image_dim=12,
            added_kv_proj_dim=heads * 12,
            motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
            motion_encoder_size=16,
            motion_style_dim=16,
            motion_dim=4,
            motion_encoder_dim=16,
            face_encoder_hidden_dim=16,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=2,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(12, F, H, W),
            "timestep": draw.timestep(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_hidden_states_image": draw.tokens(7, 12),
            "pose_hidden_states": draw.tokens(4, F - 1, H, W),
            "face_pixel_values": draw.tokens(3, 4 * (F - 1), 16, 16),
            "return_dict": False,
        },
        casts="norms, modulation and motion encoder",
    ),
    entry(
        "WanAnimate2",
        lambda heads: WithReference(
            WanAnimate2Transformer3DModel(
                text_len=TEXT,
                in_dim=8,
                dim=heads * 12,
                ffn_dim=96,
                freq_dim=32,
                text_dim=TEXT_DIM,
                out_dim=4,
                num_heads=heads,
                num_layers=2,
                use_img_emb=True,
            )
        ),
        lambda draw: {
            "latents": draw.randn(4, 2, 8, 12),
            "condition": draw.randn(4, 2, 8, 12),
            "reference": draw.randn(8, 1, 8, 12),
            "timestep": torch.tensor([500 + 37 * draw.seed]),
            "text": draw.randn(TEXT, TEXT_DIM),
            "image": draw.randn(1, 7, 1280),
        },
        batched=False,
        flex=True,
        casts="rotary embedding and norms",
    ),
    entry(
        "AnyFlowFAR",
        lambda heads: transformers.AnyFlowFARTransformer3DModel(
            num_attention_heads=heads, full_chunk_limit=2, chunk_partition=(1, 2, 2), **WAN_LIKE
        ),
        lambda draw: {
            "hidden_states": draw.tokens(F, 4, 8, 12),
            "timestep": draw.fraction()[:, None].expand(-1, F) * 1000,
            "r_timestep": draw.fraction()[:, None].expand(-1, F) * 500,
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "chunk_partition": [1, 2, 2],
            "return_dict": False,
        },
        flex=True,
        casts="norms and modulation",
    ),
    entry(
        "Cosmos3Omni",
        lambda heads: transformers.Cosmos3OmniTransformer(
            head_dim=12,
            hidden_size=heads * 12,
            intermediate_size=192,
            latent_channel=4,
            num_attention_heads=heads,
            num_hidden_layers=2,
            num_key_value_heads=heads // 2,
            patch_latent_dim=16,
            vocab_size=50,
            rope_axes_dim=(2, 2, 2),
        ),
        _packed,
        batched=False,
        odd=(10, 12),
        casts=ROPE,
    ),
)
