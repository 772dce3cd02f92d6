"""The stages that a family may name."""

from __future__ import annotations

from .decode import DecodeStage
from .denoise import DenoiseStage
from .encode_text import EncodeTextStage
from .latents import LatentsStage
from .stage import Stage
from .timesteps import TimestepsStage
from .validate import ValidateStage

STAGES: dict[str, type[Stage]] = {
    "validate": ValidateStage,
    "encode_text": EncodeTextStage,
    "timesteps": TimestepsStage,
    "latents": LatentsStage,
    "denoise": DenoiseStage,
    "decode": DecodeStage,
}
