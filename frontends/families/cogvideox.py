"""CogVideoX 2B, 5B and 1.5 (CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer, 2024)."""

from __future__ import annotations

from dataclasses import replace

from .family import Family, Picture, Preset

# Sampling defaults are those of the model cards.
COGVIDEOX = Family(
    name="cogvideox",
    pipeline_class="CogVideoXPipeline",
    roles=("tokenizer", "text_encoder", "transformer", "scheduler", "vae"),
    presets=(
        Preset(
            ("zai-org/CogVideoX-2b", "THUDM/CogVideoX-2b", "zai-org/CogVideoX-5b", "THUDM/CogVideoX-5b"),
            {
                "negative_prompt": "",
                "height": 480,
                "width": 720,
                "num_frames": 49,
                "fps": 8,
                "num_inference_steps": 50,
                "guidance_scale": 6.0,
                "use_dynamic_cfg": False,
                "max_sequence_length": 226,
            },
        ),
        Preset(
            ("zai-org/CogVideoX1.5-5B", "THUDM/CogVideoX1.5-5B"),
            {"height": 768, "width": 1360, "num_frames": 81, "fps": 16},
            when={"transformer.patch_size_t": 2},
        ),
    ),
    accelerator_dtypes={"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "bfloat16"},
    inputs=("rotary_embedding",),
    text_length_is_fixed=True,
    size_is_fixed_if="transformer.use_learned_positional_embeddings",
    channel_dim=2,
    pads_latent_frames=True,
    latent_channels="vae.latent_channels",
    spatial_factor=8,
)

COGVIDEOX_I2V = replace(
    COGVIDEOX,
    name="cogvideox-i2v",
    pipeline_class="CogVideoXImageToVideoPipeline",
    presets=(
        Preset(("zai-org/CogVideoX-5b-I2V", "THUDM/CogVideoX-5b-I2V"), COGVIDEOX.defaults),
        Preset(
            ("zai-org/CogVideoX1.5-5B-I2V", "THUDM/CogVideoX1.5-5B-I2V"),
            COGVIDEOX.presets[1].values,
            when={"transformer.patch_size_t": 2},
        ),
    ),
    inputs=("rotary_embedding", "offset_embedding"),
    picture=Picture("CogVideoXImageToVideoPipeline", latents="beside", required=True),
)
