"""Build a small, complete text-to-video pipeline in Diffusers layout, with seeded random weights.

    python examples/build_tiny_pipeline.py outputs/tiny-wan

It has the classes and the structure of Wan2.1 text-to-video, so that everything that runs on the real weights
runs on it, in seconds and on a CPU. What it shows is noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.utils import logging

TEXT_DIM = 64
TEXT_LENGTH = 512
CORPUS = (
    "a person walking in a forest with tall trees and soft morning light",
    "a cat sleeping on a red chair by the window while rain falls outside",
    "detailed landscape with mountains and a lake under a beautiful sunset",
    "a dog runs along the beach, waves and wind, slow camera, high quality",
    "low quality, blurred details, static picture, worst quality, subtitles",
)


def build_tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer, as T5's, with a vocabulary from a few sentences."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=TEXT_LENGTH)


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=vocab_size, d_model=TEXT_DIM, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return UMT5EncoderModel(config)


def build_transformer(num_heads: int = 12, num_layers: int = 2) -> WanTransformer3DModel:
    """12 heads, as Wan2.1 1.3B has, so that 2, 3 and 4 ranks divide them and 5 do not."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=num_heads,
        attention_head_dim=12,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=256,
        num_layers=num_layers,
        cross_attn_norm=True,
        rope_max_seq_len=128,
    )


def build_vae() -> AutoencoderKLWan:
    """Wan's own structure, strides and latent statistics, with few channels."""
    return AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1)


def build_scheduler() -> UniPCMultistepScheduler:
    """As in the model_index.json of Wan2.1."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def fill_zero_weights(model: torch.nn.Module) -> None:
    """Give random values to every parameter that starts at zero, or the output would not depend on the rest."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def build(folder: Path, seed: int = 0) -> Path:
    """Write the pipeline into ``folder`` and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        text_encoder, transformer, vae = build_text_encoder(len(tokenizer)), build_transformer(), build_vae()
        for model in (text_encoder, transformer, vae):
            fill_zero_weights(model)
            model.eval()
    logging.disable_progress_bar()
    pipeline = WanPipeline(tokenizer, text_encoder, vae, build_scheduler(), transformer)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a small text-to-video pipeline with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(build(arguments.folder, arguments.seed))
