"""What a pipeline of one's own derives from."""

from __future__ import annotations

from .runtime.pipeline import ComposedPipeline, ComposedPipelineBase, GenerationRequest, GenerationState, StageContext

__all__ = ["ComposedPipeline", "ComposedPipelineBase", "GenerationRequest", "GenerationState", "StageContext"]
