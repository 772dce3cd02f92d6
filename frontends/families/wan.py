"""Wan2.1 text-to-video, 1.3B and 14B (Wan: Open and Advanced Large-Scale Video Generative Models, 2025)."""

from __future__ import annotations

from .family import Family

# Sampling defaults, the negative prompt among them, are those of wan/configs in the Wan2.1 repository.
_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)

WAN_T2V = Family(
    name="wan2.1-t2v",
    pipeline_class="WanPipeline",
    index_values={"boundary_ratio": None, "expand_timesteps": None, "transformer_2": None},
    roles=("tokenizer", "text_encoder", "transformer", "scheduler", "vae"),
    compiled=("transformer",),
    stages=("validate", "encode_text", "timesteps", "latents", "denoise", "decode"),
    defaults={
        "negative_prompt": _NEGATIVE_PROMPT,
        "height": 480,
        "width": 832,
        "num_frames": 81,
        "fps": 16,
        "num_inference_steps": 50,
        "guidance_scale": 5.0,
        "max_sequence_length": 512,
    },
    accelerator_dtypes={"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "float32"},
)
