"""The stages of pipelines: the project's own, and what one's own derives from."""

from __future__ import annotations

from .runtime.pipeline import GenerationState, Stage, StageContext, StandardStages

__all__ = ["GenerationState", "Stage", "StageContext", "StandardStages"]
