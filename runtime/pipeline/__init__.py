"""The stages that make a video out of compiled programs, and the file it ends up in."""

from __future__ import annotations

from .composed import ComposedPipeline
from .stage import Stage, StageContext
from .state import GenerationRequest, GenerationState
from .steps import StepCallback, StepInfo

__all__ = [
    "ComposedPipeline",
    "GenerationRequest",
    "GenerationState",
    "Stage",
    "StageContext",
    "StepCallback",
    "StepInfo",
]
