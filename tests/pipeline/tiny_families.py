"""A small complete pipeline of every family: the real classes with few channels, random weights, own tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from .conftest import load_example

HEADS = 4
TEXT_DIM = 32
WAN = load_example("build_tiny_pipeline")
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant "
)


def words_tokenizer(start: str, end: str, *further: str, closes: bool = False, **options: Any) -> Any:
    """A BPE tokenizer whose vocabulary has every word of the corpus and of the prompt template.

    Args:
        start, end: special tokens; every text begins with ``start``, and ends with ``end`` if it ``closes``.
        further: special tokens besides.
        options: of the tokenizer class.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [end, start, *further]
    corpus = [*WAN.CORPUS, DEFAULT_PROMPT_TEMPLATE["template"]]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}" if closes else f"{start} $A", special_tokens=[(start, 1), (end, 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, unk_token=end, **options
    )


def t5(tokenizer: Any) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_DIM,
            d_kv=8,
            d_ff=64,
            num_layers=1,
            num_heads=HEADS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def wan_transformer(**changes: Any) -> Any:
    options = {"in_channels": 16, "out_channels": 16, **changes}
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=12,
        text_dim=WAN.TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=1,
        cross_attn_norm=True,
        rope_max_seq_len=64,
        **options,
    )


def wan_parts(transformer: Any) -> dict[str, Any]:
    tokenizer = WAN.build_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": WAN.build_text_encoder(len(tokenizer)),
        "vae": WAN.build_vae(),
        "scheduler": diffusers.UniPCMultistepScheduler(**UNIPC),
        "transformer": transformer,
    }


def wan_i2v() -> Any:
    vision = transformers.CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    size = {"height": 32, "width": 32}
    return diffusers.WanImageToVideoPipeline(
        **wan_parts(wan_transformer(in_channels=36, image_dim=24, added_kv_proj_dim=48)),
        image_encoder=transformers.CLIPVisionModel(vision),
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
    )


def wan22_t2v() -> Any:
    return diffusers.WanPipeline(**wan_parts(wan_transformer()), transformer_2=wan_transformer(), boundary_ratio=0.875)


def wan22_i2v() -> Any:
    parts = wan_parts(wan_transformer(in_channels=36))
    return diffusers.WanImageToVideoPipeline(**parts, transformer_2=wan_transformer(in_channels=36), boundary_ratio=0.9)


def wan22_ti2v() -> Any:
    parts = wan_parts(wan_transformer(in_channels=48, out_channels=48))
    parts["vae"] = diffusers.AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.1 * i - 2 for i in range(48)],
        latents_std=[0.5 + 0.02 * i for i in range(48)],
    )
    return diffusers.WanPipeline(**parts, expand_timesteps=True)


def hunyuan_video(shift: float = 7.0) -> Any:
    tokenizer = words_tokenizer("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    clip_tokenizer = words_tokenizer("<|startoftext|>", "<|endoftext|>", closes=True, model_max_length=77)
    llama = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
    )
    clip = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=1,
        eos_token_id=0,
    )
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(llama),
        tokenizer=tokenizer,
        text_encoder_2=transformers.CLIPTextModel(clip),
        tokenizer_2=clip_tokenizer,
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=HEADS,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_DIM,
            pooled_projection_dim=24,
            rope_axes_dim=(4, 4, 4),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    )


def hunyuan_video_15() -> Any:
    tokenizer = words_tokenizer("<|im_start|>", "<|endoftext|>", "<|im_end|>", chat_template=CHAT_TEMPLATE)
    qwen = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=0,
        rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]},
    )
    byt5 = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=HEADS, dropout_rate=0.0
    )
    return diffusers.HunyuanVideo15Pipeline(
        text_encoder=transformers.Qwen2_5_VLTextModel(qwen),
        tokenizer=tokenizer,
        text_encoder_2=transformers.T5EncoderModel(byt5),
        tokenizer_2=transformers.ByT5Tokenizer(extra_ids=0),
        transformer=diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=HEADS,
            attention_head_dim=12,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_DIM,
            text_embed_2_dim=16,
            image_embed_dim=8,
            rope_axes_dim=(4, 4, 4),
            target_size=640,
            task_type="t2v",
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )


def cogvideox(
    scheduler: str = "CogVideoXDDIMScheduler",
    *,
    rotary: bool = False,
    patch_size_t: int | None = None,
    picture: bool = False,
) -> Any:
    tokenizer = WAN.build_tokenizer()
    v_prediction = {
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 1.0,
        "timestep_spacing": "trailing",
    }
    cls = diffusers.CogVideoXImageToVideoPipeline if picture else diffusers.CogVideoXPipeline
    return cls(
        tokenizer=tokenizer,
        text_encoder=t5(tokenizer),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=HEADS,
            attention_head_dim=16,
            in_channels=8 if picture else 4,
            out_channels=4,
            time_embed_dim=8,
            ofs_embed_dim=8 if picture and patch_size_t else None,
            text_embed_dim=TEXT_DIM,
            num_layers=1,
            sample_width=10,
            sample_height=6,
            sample_frames=9,
            patch_size_t=patch_size_t,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=rotary,
            patch_bias=patch_size_t is None,
        ),
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        scheduler=getattr(diffusers, scheduler)(**v_prediction),
    )


def ltx_video(*, timestep_conditioning: bool = False) -> Any:
    tokenizer = WAN.build_tokenizer()
    return diffusers.LTXPipeline(
        tokenizer=tokenizer,
        text_encoder=t5(tokenizer),
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=HEADS,
            attention_head_dim=12,
            cross_attention_dim=48,
            num_layers=1,
            caption_channels=TEXT_DIM,
        ),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            timestep_conditioning=timestep_conditioning,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
        ),
    )


def mochi() -> Any:
    tokenizer = WAN.build_tokenizer()
    return diffusers.MochiPipeline(
        tokenizer=tokenizer,
        text_encoder=t5(tokenizer),
        transformer=diffusers.MochiTransformer3DModel(
            num_attention_heads=HEADS,
            attention_head_dim=12,
            num_layers=1,
            pooled_projection_dim=16,
            in_channels=12,
            text_embed_dim=TEXT_DIM,
            time_embed_dim=8,
            max_sequence_length=256,
        ),
        vae=diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


TINY: dict[str, Callable[[], Any]] = {
    "wan2.1-i2v": wan_i2v,
    "wan2.2-t2v-a14b": wan22_t2v,
    "wan2.2-i2v-a14b": wan22_i2v,
    "wan2.2-ti2v-5b": wan22_ti2v,
    "hunyuan-video": hunyuan_video,
    "fast-hunyuan": lambda: hunyuan_video(shift=17.0),
    "hunyuan-video-1.5": hunyuan_video_15,
    "cogvideox-2b": cogvideox,
    "cogvideox-5b": lambda: cogvideox("CogVideoXDPMScheduler", rotary=True),
    "cogvideox-5b-i2v": lambda: cogvideox("CogVideoXDPMScheduler", rotary=True, picture=True),
    "cogvideox-1.5-i2v": lambda: cogvideox("CogVideoXDPMScheduler", rotary=True, patch_size_t=2, picture=True),
    "cogvideox-1.5": lambda: cogvideox("CogVideoXDPMScheduler", rotary=True, patch_size_t=2),
    "ltx-video": ltx_video,
    "ltx-video-0.9.1": lambda: ltx_video(timestep_conditioning=True),
    "mochi-1": mochi,
}


def build(name: str, folder: Path) -> Any:
    """The pipeline of this name as diffusers has it, also written into ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = TINY[name]()
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                WAN.fill_zero_weights(part)
                part.eval()
    transformers.utils.logging.disable_progress_bar()
    pipeline.save_pretrained(folder, safe_serialization=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
