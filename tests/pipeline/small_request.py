"""A request that is cheap to serve."""

from __future__ import annotations

from typing import Any

from fastvideo.runtime.pipeline import GenerationRequest

SMALL: dict[str, Any] = {
    "prompt": "a person walking in a forest",
    "negative_prompt": "low quality, blurred details",
    "height": 48,
    "width": 80,
    "num_frames": 9,
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "seed": 7,
}


def small_request(**changes: Any) -> GenerationRequest:
    return GenerationRequest(**{**SMALL, "fps": 16, "max_sequence_length": 512, **changes})
