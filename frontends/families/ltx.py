"""LTX-Video (LTX-Video: Realtime Video Latent Diffusion, 2024)."""

from __future__ import annotations

from .family import Family, Picture, Preset

# Sampling defaults are those of the model card and of the pipeline class in diffusers.
LTX_VIDEO = Family(
    name="ltx-video",
    pipeline_class="LTXPipeline",
    roles=("tokenizer", "text_encoder", "transformer", "scheduler", "vae"),
    presets=(
        Preset(
            ("Lightricks/LTX-Video", "a-r-r-o-w/LTX-Video-diffusers"),
            {
                "negative_prompt": "worst quality, inconsistent motion, blurry, jittery, distorted",
                "height": 480,
                "width": 704,
                "num_frames": 161,
                "fps": 24,
                "num_inference_steps": 50,
                "guidance_scale": 3.0,
                "decode_timestep": 0.0,
                "decode_noise_scale": 0.0,
                "max_sequence_length": 128,
            },
        ),
        Preset(
            ("a-r-r-o-w/LTX-Video-0.9.1-diffusers", "Lightricks/LTX-Video-0.9.5"),
            {"decode_timestep": 0.05, "decode_noise_scale": 0.025},
            when={"vae.timestep_conditioning": True},
        ),
    ),
    accelerator_dtypes={"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "bfloat16"},
    text=("encoder_hidden_states", "encoder_attention_mask"),
    inputs=("latent_sizes",),
    picture=Picture("LTXImageToVideoPipeline", latents="held_tokens"),
    sigmas="linear",
    spatial_factor=32,
    temporal_factor=8,
)
