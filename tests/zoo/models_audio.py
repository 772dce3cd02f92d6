"""Audio transformers of diffusers, and others that are neither images nor video."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import models
from diffusers.models import transformers
from diffusers.models.transformers.minimax_music3_rvq_depth_decoder import MiniMaxMusic3RVQDepthDecoder
from torch import nn

from .cases import Draw, ZooCase, entry

FRAMES, TEXT, TEXT_DIM = 95, 10, 16


def _proteina(heads: int) -> nn.Module:
    """Denoises the atoms of a protein; its attention is biased by a representation of all pairs of tokens."""
    return transformers.RFD4ProteinaTransformer(  # type: ignore[no-any-return]
        nlayers=3,
        token_dim=heads * 12,
        nheads=heads,
        dim_cond=24,
        pair_repr_dim=16,
        latent_dim=8,
        token_type_emb_dim=8,
        t_emb_dim=16,
        tri_mult_c=16,
        num_sequence_classes=21,
        feats_seq=("xt_bb_ca", "xt_local_latents", "token_type"),
        feats_cond_seq=("time_emb_bb_ca", "time_emb_local_latents"),
        feats_pair_repr=("xt_bb_ca_pair_dists",),
    )


def _proteina_inputs(draw: Draw) -> dict[str, Any]:
    length = 37
    mask = draw.mask(length).bool()
    return {
        "bb_ca": draw.tokens(length, 3),
        "local_latents": draw.tokens(length, 8),
        "bb_ca_time": draw.fraction(),
        "local_latents_time": draw.fraction() / 2,
        "padding_mask": mask,
        "token_type": draw.integers(7, length),
        "conditioning": {
            "is_in_context_conditioning": torch.arange(length).expand(draw.batch, -1) < 2 + draw.seed,
            "supports_local_latent": mask,
        },
        "return_dict": False,
    }


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
            "encoder_hidden_states": draw.tokens(TEXT, draw.heads * 12),
            "context_latents": draw.tokens(FRAMES, 8),
            "return_dict": False,
        },
        casts="norms",
        odd=(10, 12),
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
        casts="norms",
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
        "MiniMaxMusic3Depth",
        lambda heads: MiniMaxMusic3RVQDepthDecoder(
            hidden_size=heads * 12,
            num_layers=2,
            num_attention_heads=heads,
            intermediate_size=192,
            audio_vocab_size=20,
            max_position_embeddings=64,
        ),
        lambda draw: {"inputs_embeds": draw.tokens(37, draw.heads * 12)},
        casts="norms",
    ),
    entry("Proteina", _proteina, _proteina_inputs, casts="time embedding and distances"),
    entry(
        "T5Film",
        lambda heads: models.T5FilmDecoder(
            input_dims=8, targets_length=37, d_model=heads * 8, num_layers=2, num_heads=heads, d_kv=8, d_ff=64
        ),
        lambda draw: {
            "encodings_and_masks": [(draw.tokens(TEXT, draw.heads * 8), draw.mask(TEXT))],
            "decoder_input_tokens": draw.tokens(37, 8),
            "decoder_noise_time": draw.fraction(),
        },
        casts="time embedding",
    ),
)
