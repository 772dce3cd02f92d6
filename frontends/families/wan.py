"""Wan2.1 and Wan2.2 (Wan: Open and Advanced Large-Scale Video Generative Models, 2025)."""

from __future__ import annotations

from dataclasses import replace

from .family import GIVEN, Family, Picture, Preset

# Sampling defaults, the negative prompt among them, are those of wan/configs and generate.py in the repositories
# Wan-Video/Wan2.1 and Wan-Video/Wan2.2. So are the flow shifts, but for Wan2.1 at 480p, where the scheduler's config
# has the 3.0 of the model cards.
_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
_480P = {
    "negative_prompt": _NEGATIVE_PROMPT,
    "height": 480,
    "width": 832,
    "num_frames": 81,
    "fps": 16,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "max_sequence_length": 512,
}
_720P = {"height": 720, "width": 1280}
_FROM_PICTURE = {**_480P, "num_inference_steps": 40}

WAN_T2V = Family(
    name="wan2.1-t2v",
    pipeline_class="WanPipeline",
    index_values={"boundary_ratio": None, "expand_timesteps": None, "transformer_2": None},
    roles=("tokenizer", "text_encoder", "transformer", "scheduler", "vae"),
    presets=(
        Preset(("Wan-AI/Wan2.1-T2V-1.3B-Diffusers",), _480P),
        Preset(("Wan-AI/Wan2.1-T2V-14B-Diffusers",), _720P, flow_shift=5.0, when={"transformer.num_layers": 40}),
    ),
    accelerator_dtypes={"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "float32"},
    spatial_factor="vae.scale_factor_spatial",
    temporal_factor="vae.scale_factor_temporal",
    most_positions="rope_max_seq_len",
)

WAN_I2V = replace(
    WAN_T2V,
    name="wan2.1-i2v",
    pipeline_class="WanImageToVideoPipeline",
    roles=(*WAN_T2V.roles, "image_encoder", "image_processor"),
    encoders=(*WAN_T2V.encoders, "image_encoder"),
    presets=(
        Preset(("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",), _FROM_PICTURE),
        Preset(("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",), _720P, flow_shift=5.0, when={"scheduler.flow_shift": 5.0}),
    ),
    accelerator_dtypes={**WAN_T2V.accelerator_dtypes, "image_encoder": "float32"},
    picture=Picture("WanImageToVideoPipeline", latents="beside", required=True, encoder="image_encoder"),
    latent_channels="vae.z_dim",
)

WAN22_T2V = replace(
    WAN_T2V,
    name="wan2.2-t2v-a14b",
    index_values={"boundary_ratio": GIVEN, "expand_timesteps": None, "transformer_2": GIVEN},
    roles=(*WAN_T2V.roles, "transformer_2"),
    compiled=("transformer", "transformer_2"),
    presets=(
        Preset(
            ("Wan-AI/Wan2.2-T2V-A14B-Diffusers",),
            {**_480P, **_720P, "num_inference_steps": 40, "guidance_scale": 4.0, "guidance_scale_2": 3.0},
            flow_shift=12.0,
        ),
    ),
    accelerator_dtypes={**WAN_T2V.accelerator_dtypes, "transformer_2": "bfloat16"},
    boundary="model_index.boundary_ratio",
)

WAN22_I2V = replace(
    WAN22_T2V,
    name="wan2.2-i2v-a14b",
    pipeline_class="WanImageToVideoPipeline",
    presets=(
        Preset(
            ("Wan-AI/Wan2.2-I2V-A14B-Diffusers",),
            {**_FROM_PICTURE, **_720P, "guidance_scale": 3.5, "guidance_scale_2": 3.5},
            flow_shift=5.0,
        ),
    ),
    picture=Picture("WanImageToVideoPipeline", latents="beside", required=True),
    latent_channels="vae.z_dim",
)

WAN22_TI2V = replace(
    WAN_T2V,
    name="wan2.2-ti2v-5b",
    index_values={"boundary_ratio": None, "expand_timesteps": True, "transformer_2": None},
    presets=(
        Preset(
            ("Wan-AI/Wan2.2-TI2V-5B-Diffusers",),
            {**_480P, "height": 704, "width": 1280, "num_frames": 121, "fps": 24},
            flow_shift=5.0,
        ),
    ),
    picture=Picture("WanImageToVideoPipeline", latents="first_frame"),
    timestep_per_token=True,
)
