"""Mochi 1 preview (Genmo, 2024)."""

from __future__ import annotations

from .family import Family, Preset

# Sampling defaults are those of the pipeline class in diffusers and of the model card.
MOCHI = Family(
    name="mochi-1",
    pipeline_class="MochiPipeline",
    roles=("tokenizer", "text_encoder", "transformer", "scheduler", "vae"),
    presets=(
        Preset(
            ("genmo/mochi-1-preview",),
            {
                "negative_prompt": "",
                "height": 480,
                "width": 848,
                "num_frames": 85,
                "fps": 30,
                "num_inference_steps": 64,
                "guidance_scale": 4.5,
                "max_sequence_length": 256,
            },
        ),
    ),
    accelerator_dtypes={"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "float32"},
    text=("encoder_hidden_states", "encoder_attention_mask"),
    sigmas="linear_quadratic",
    least_steps=2,
    spatial_factor=8,
    temporal_factor=6,
)
