"""The stages that make a video out of compiled programs, and the file it ends up in."""

from __future__ import annotations

from .composed import ComposedPipeline, ComposedPipelineBase
from .stage import Stage, StageContext
from .standard_stages import StandardStages
from .state import GenerationRequest, GenerationState
from .steps import StepCallback, StepInfo

__all__ = [
    "ComposedPipeline",
    "ComposedPipelineBase",
    "GenerationRequest",
    "GenerationState",
    "Stage",
    "StageContext",
    "StandardStages",
    "StepCallback",
    "StepInfo",
]
