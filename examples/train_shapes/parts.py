"""The models that are trained, untrained: classes and structure of Wan2.1 text-to-video, made small."""

from __future__ import annotations

import random

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from .scenes import describe, sample_scene

LATENT_CHANNELS = 8
BASE = 24
"""Channels of the autoencoder at full size."""
TEXT_DIM = 256
TEXT_LENGTH = 64
"""Tokens that a caption is padded to; Wan's own pipeline pads to 512."""
FLOW_SHIFT = 3.0


def build_tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer, as T5's: a piece for each word of the captions, and letters for all others."""
    random_ = random.Random(0)
    captions = [describe(sample_scene(random_), random_) for _ in range(4000)]
    words = sorted({word for caption in captions for word in caption.replace(",", "").split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -1.0) for word in words if len(word) > 1]
    pieces += [(letter, -10.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512)


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """1.4 M parameters.

    Untrained, two of the four heads look at the tokens just before and just behind, and one at both, less and less with
    the distance (Press et al., "Train Short, Test Long", 2021); from no preference at all they learn it late.
    """
    config = UMT5Config(
        vocab_size=vocab_size, d_model=TEXT_DIM, d_kv=64, d_ff=512, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    encoder = UMT5EncoderModel(config)
    distance = torch.arange(1 - TEXT_LENGTH, TEXT_LENGTH)
    before, behind = distance.clamp(max=0).abs(), distance.clamp(min=0)
    near = torch.stack(
        [-before * 0.5 - 4.0 * (behind > 0), -behind * 0.5 - 4.0 * (before > 0), -distance.abs() * 0.25, before * 0.0],
        1,
    )
    for block in encoder.encoder.block:
        attention = block.layer[0].SelfAttention
        bucket = attention._relative_position_bucket(distance)
        with torch.no_grad():
            for number in bucket.unique().tolist():
                attention.relative_attention_bias.weight[number] = near[bucket == number].mean(0)
    return encoder


def build_transformer() -> WanTransformer3DModel:
    """14 M parameters; one token per latent, so that 17 frames of 128 × 128 are 5 × 16 × 16 tokens."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=512,
        num_layers=8,
        cross_attn_norm=True,
    )


def build_vae(mean: list[float] | None = None, std: list[float] | None = None) -> AutoencoderKLWan:
    """4 times fewer frames, 8 times fewer rows and columns; two of the eight by putting 2 × 2 pixels into channels.

    Args:
        mean: of the latents, per channel; known after training.
        std: likewise.
    """
    vae = AutoencoderKLWan(
        base_dim=BASE,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
    )
    with torch.no_grad():  # latents are drawn with little noise at first, or decoding learns nothing for long
        vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
        vae.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
    return vae


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching with the shift that training had."""
    return FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT)
