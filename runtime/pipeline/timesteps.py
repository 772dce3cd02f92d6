"""The noise levels of the denoising steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

import fastvideo_ir as ir

from .stage import Stage
from .state import GenerationState

_THRESHOLD_NOISE = 0.025  # where the schedule of Genmo's models turns from linear to quadratic


def _linear(steps: int) -> np.ndarray:
    """From 1 down in equal steps; the scheduler adds the final zero."""
    return np.linspace(1.0, 0.0, steps + 1)[:-1]


def _linear_quadratic(steps: int) -> np.ndarray:
    return np.array(linear_quadratic_schedule(steps, _THRESHOLD_NOISE))


SIGMAS: dict[str, Callable[[int], np.ndarray] | None] = {
    "scheduler": None,
    "linear": _linear,
    "linear_quadratic": _linear_quadratic,
}
"""Schedules that a family may name, from the number of steps; None leaves it to the scheduler."""


class TimestepsStage(Stage):
    """Asks the scheduler for its timesteps; they keep the dtype that the scheduler gives them."""

    provides = ("timesteps", "scheduler")

    def run(self, state: GenerationState) -> None:
        scheduler = self.context.components["scheduler"].value
        steps = state.request.num_inference_steps
        options: dict[str, Any] = {}
        sigmas = SIGMAS[self.context.family.sigmas]
        if sigmas is not None:
            options["sigmas"] = sigmas(steps)
            self._refuse_without_sigmas(scheduler)
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self._shift(state, scheduler.config)
        scheduler.set_timesteps(steps, device=self.context.device, **options)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # spares a search, and a device synchronization, in every step
        state.timesteps, state.scheduler = scheduler.timesteps, copy.deepcopy(scheduler)

    def _shift(self, state: GenerationState, config: Any) -> float:
        """The shift towards more noise, by the number of tokens."""
        request, geometry = state.request, self.context.geometry
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        tokens = geometry.latents_per_video(request.num_frames, request.height, request.width)
        shift: float = calculate_shift(tokens, *(config[key] for key in keys))
        return shift

    def _refuse_without_sigmas(self, scheduler: Any) -> None:
        if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ir.errors.PipelineLoadError(
                f"{self.context.family.name} sets noise levels, which {type(scheduler).__name__} does not take",
                hint="use the scheduler that the weights came with",
            )
