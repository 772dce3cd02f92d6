"""Audio transformers of diffusers, and others that are neither images nor video."""

from __future__ import annotations

import torch
from diffusers import models
from diffusers.models import transformers

from .cases import ZooCase, entry

FRAMES, TEXT, TEXT_DIM = 95, 10, 16
AUDIO: tuple[ZooCase, ...] = (
    entry(
        "StableAudio",
        lambda heads: models.StableAudioDiTModel(
            sample_size=FRAMES,
            in_channels=4,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=heads,
            num_key_value_attention_heads=heads // 2,
            out_channels=4,
            cross_attention_dim=heads // 2 * 12,
            time_proj_dim=16,
            global_states_input_dim=8,
            cross_attention_input_dim=TEXT_DIM,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, FRAMES),
            "timestep": draw.fraction(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "global_hidden_states": draw.tokens(1, 8),
            "rotary_embedding": (draw.randn(FRAMES + 1, 6).cos(), draw.randn(FRAMES + 1, 6).sin()),
            "return_dict": False,
        },
        casts="rotary embedding",
    ),
    entry(
        "LongCatAudio",
        lambda heads: transformers.LongCatAudioDiTTransformer(
            dit_dim=heads * 12, dit_depth=2, dit_heads=heads, dit_text_dim=TEXT_DIM, latent_dim=4
        ),
        lambda draw: {
            "hidden_states": draw.tokens(FRAMES, 4),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "encoder_attention_mask": draw.mask(TEXT).bool(),
            "timestep": draw.fraction(),
            "attention_mask": draw.mask(FRAMES).bool(),
            "latent_cond": draw.tokens(FRAMES, 4),
            "return_dict": False,
        },
        casts="norms and rotary embedding",
    ),
    entry(
        "AceStep",
        lambda heads: transformers.AceStepTransformer1DModel(
            hidden_size=heads * 12,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=12,
            in_channels=12,
            audio_acoustic_hidden_dim=4,
            sliding_window=16,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(FRAMES, 4),
            "timestep": draw.fraction(),
            "timestep_r": draw.fraction() / 2,
            "encoder_hidden_states": draw.tokens(TEXT, 8 * 12),
            "context_latents": draw.tokens(FRAMES, 8),
            "return_dict": False,
        },
        casts="norms",
    ),
    entry(
        "MiniMaxMusic3",
        lambda heads: transformers.MiniMaxMusic3Transformer1DModel(
            in_channels=4,
            condition_dim=TEXT_DIM,
            num_layers=2,
            num_attention_heads=heads,
            attention_head_dim=12,
            ff_inner_dim=64,
            rotary_dim=4,
            fourier_embedding_dim=16,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, FRAMES),
            "timestep": draw.fraction(),
            "encoder_hidden_states": draw.tokens(FRAMES, TEXT_DIM),
            "return_dict": False,
        },
    ),
    entry(
        "StableAudio3",
        lambda heads: transformers.StableAudio3DiTModel(
            io_channels=4,
            embed_dim=heads * 12,
            depth=2,
            num_heads=heads,
            cond_token_dim=TEXT_DIM,
            global_cond_dim=8,
            local_add_cond_dim=5,
            timestep_features_dim=16,
            ff_mult=2.0,
            num_memory_tokens=6,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(4, FRAMES),
            "timestep": draw.fraction(),
            "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
            "global_hidden_states": draw.tokens(8),
            "local_add_cond": draw.tokens(5, FRAMES),
            "return_dict": False,
        },
    ),
    entry(
        "Prior",
        lambda heads: models.PriorTransformer(
            num_attention_heads=heads,
            attention_head_dim=12,
            num_layers=2,
            embedding_dim=TEXT_DIM,
            num_embeddings=37,
            additional_embeddings=4,
        ),
        lambda draw: {
            "hidden_states": draw.tokens(TEXT_DIM),
            "timestep": draw.timestep(),
            "proj_embedding": draw.tokens(TEXT_DIM),
            "encoder_hidden_states": draw.tokens(37, TEXT_DIM),
            "attention_mask": draw.mask(37).bool(),
            "return_dict": False,
        },
    ),
    entry(
        "T5Film",
        lambda heads: models.T5FilmDecoder(
            input_dims=8, targets_length=37, d_model=heads * 8, num_layers=2, num_heads=heads, d_kv=8, d_ff=64
        ),
        lambda draw: {
            "encodings_and_masks": [(draw.tokens(TEXT, 64), draw.mask(TEXT))],
            "decoder_input_tokens": draw.tokens(37, 8),
            "decoder_noise_time": draw.fraction(),
        },
        dtype=torch.float32,
        casts="time embedding",
    ),
)
