"""HunyuanVideo and FastHunyuan (HunyuanVideo: A Systematic Framework, 2024), and HunyuanVideo-1.5 (2025)."""

from __future__ import annotations

from .family import Family, Preset

_DTYPES = {
    "text_encoder": "bfloat16",
    "text_encoder_2": "bfloat16",
    "transformer": "bfloat16",
    "vae": "float16",
}
_ENCODERS = ("text_encoder", "text_encoder_2")
_ROLES = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "transformer", "scheduler", "vae")

# Sampling defaults are those of sample_video.py and the README in Tencent-Hunyuan/HunyuanVideo; of FastHunyuan those
# of its model card: 6 steps with flow shift 17, which its scheduler_config.json has.
HUNYUAN_VIDEO = Family(
    name="hunyuan-video",
    pipeline_class="HunyuanVideoPipeline",
    roles=_ROLES,
    encoders=_ENCODERS,
    presets=(
        Preset(
            ("hunyuanvideo-community/HunyuanVideo", "tencent/HunyuanVideo"),
            {
                "negative_prompt": "",
                "height": 720,
                "width": 1280,
                "num_frames": 129,
                "fps": 24,
                "num_inference_steps": 50,
                "guidance_scale": 6.0,
                "true_cfg_scale": 1.0,
                "max_sequence_length": 256,
            },
        ),
        Preset(
            ("FastVideo/FastHunyuan-diffusers", "FastVideo/FastHunyuan"),
            {"num_frames": 125, "num_inference_steps": 6},
            flow_shift=17.0,
            when={"scheduler.shift": 17.0},
        ),
    ),
    accelerator_dtypes=_DTYPES,
    text=("encoder_hidden_states", "pooled_projections", "encoder_attention_mask"),
    guidance="embedded",
    sigmas="linear",
)

# Sampling defaults are those of the pipeline class in diffusers and of the checkpoints' guider_config.json.
HUNYUAN_VIDEO_15 = Family(
    name="hunyuan-video-1.5",
    pipeline_class="HunyuanVideo15Pipeline",
    roles=(*_ROLES, "guider"),
    encoders=_ENCODERS,
    presets=(
        Preset(
            (
                "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
                "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",
            ),
            {
                "negative_prompt": "",
                "height": 480,
                "width": 848,
                "num_frames": 121,
                "fps": 24,
                "num_inference_steps": 50,
                "guidance_scale": 6.0,
                "max_sequence_length": 1000,
            },
        ),
        Preset(
            ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v_distilled",),
            {"height": 720, "width": 1280, "guidance_scale": 1.0},
            when={"transformer.target_size": 960, "guider.guidance_scale": 1.0},
        ),
        Preset(
            ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v_distilled",),
            {"guidance_scale": 1.0},
            when={"guider.guidance_scale": 1.0},
        ),
        Preset(
            (
                "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v",
                "hunyuanvideo-community/HunyuanVideo-1.5-720p_t2v",
            ),
            {"height": 720, "width": 1280},
            when={"transformer.target_size": 960},
        ),
    ),
    accelerator_dtypes=_DTYPES,
    text=(
        "encoder_hidden_states",
        "encoder_attention_mask",
        "encoder_hidden_states_2",
        "encoder_attention_mask_2",
    ),
    casts_timestep=True,
    inputs=("empty_picture",),
    sigmas="linear",
    latent_channels="vae.latent_channels",
)
