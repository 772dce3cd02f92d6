"""The denoising loop."""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch

from ...frontends.loading import Component
from .guidance import cfg_scale, dynamic_scale, second_scale
from .stage import Stage
from .state import GenerationState


class DenoiseStage(Stage):
    """Calls the denoiser once per step; guidance is a batch of two, which a planner may split over ranks."""

    requires = ("text", "timesteps", "latents")
    provides = ("latents",)

    def steps(self, state: GenerationState) -> int:
        return state.request.num_inference_steps

    def run(self, state: GenerationState) -> None:
        assert state.timesteps is not None and state.latents is not None
        self._tell_compiled("reset_cache")
        step = SchedulerStep(self.context.components["scheduler"].value, state)
        for index, timestep in enumerate(state.timesteps):
            self._tell_compiled("set_step", index)
            start = time.perf_counter()
            denoised = step(self._predict(state, timestep), index)
            state.latents = denoised if state.held is None else torch.where(state.held, state.latents, denoised)
            self.synchronize()
            state.step_done(timestep, time.perf_counter() - start)
        self._tell_compiled("set_step", None)

    def _tell_compiled(self, method: str, *arguments: Any) -> None:
        """Call a method of every component that has it: compiled denoisers keep what depends on the step."""
        for component in self.context.components.values():
            listener = getattr(component.value, method, None)
            if listener is not None:
                listener(*arguments)

    def _predict(self, state: GenerationState, timestep: torch.Tensor) -> torch.Tensor:
        """The denoiser's output for one sample, float32, guided if the text is a batch of two."""
        assert state.text is not None
        family = self.context.family
        denoiser, scale = self._denoiser_and_scale(state, timestep)
        times = _timestep_argument(state, timestep)
        if family.casts_timestep:  # others not, as in bfloat16 a timestep of 999 would be 1000
            times = times.to(denoiser.dtype)
        predicted: torch.Tensor = denoiser.value(
            **{
                family.latents_argument: self._denoiser_latents(state, timestep, denoiser.dtype),
                family.timestep_argument: times,
            },
            **state.text,
            **state.inputs,
            return_dict=False,
        )[0].float()
        if state.batch == 1:
            return predicted
        conditional, unconditional = predicted.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def _denoiser_and_scale(self, state: GenerationState, timestep: torch.Tensor) -> tuple[Component, float]:
        """Which denoiser works at this noise level, and with how much guidance."""
        family, request, components = self.context.family, state.request, self.context.components
        if family.boundary is not None:
            boundary = self.context.config(family.boundary) * self.context.config(family.train_timesteps)
            if timestep < boundary:
                return components["transformer_2"], second_scale(request)
        scale = cfg_scale(family, request)
        if request.use_dynamic_cfg:
            scale = dynamic_scale(scale, timestep.item(), request.num_inference_steps)
        return components["transformer"], scale

    def _denoiser_latents(self, state: GenerationState, timestep: torch.Tensor, dtype: Any) -> torch.Tensor:
        scheduler, latents = self.context.components["scheduler"].value, state.latents
        if hasattr(scheduler, "scale_model_input"):
            latents = scheduler.scale_model_input(latents, timestep)
        assert latents is not None
        if state.beside is not None:
            latents = torch.cat([latents, state.beside], dim=self.context.family.channel_dim)
        return torch.cat([latents.to(dtype)] * state.batch)

    def verify_output(self, state: GenerationState) -> None:
        super().verify_output(state)
        self.refuse_non_finite(
            state.latents,
            "the denoised latents hold NaN or infinity",
            "try dtype='float32' for the transformer, or another attention backend",
        )


class SchedulerStep:
    """One step of any scheduler, with the arguments that its ``step`` has."""

    def __init__(self, scheduler: Any, state: GenerationState) -> None:
        self._scheduler = scheduler
        self._state = state
        names = inspect.signature(scheduler.step).parameters
        self._options = {"generator": state.generator} if "generator" in names else {}
        self._is_two_step = "old_pred_original_sample" in names  # it is given its previous estimate by the caller
        self._estimate: torch.Tensor | None = None

    def __call__(self, predicted: torch.Tensor, index: int) -> torch.Tensor:
        """The latents after step ``index``, from the denoiser's output."""
        timesteps, latents = self._state.timesteps, self._state.latents
        assert timesteps is not None and latents is not None
        timestep = timesteps[index]
        denoised: torch.Tensor
        if self._is_two_step:
            before = timesteps[index - 1] if index else None
            denoised, self._estimate = self._scheduler.step(
                predicted, self._estimate, timestep, before, latents, **self._options, return_dict=False
            )
        else:
            denoised = self._scheduler.step(predicted, timestep, latents, **self._options, return_dict=False)[0]
        return denoised.to(latents.dtype)


def _timestep_argument(state: GenerationState, timestep: torch.Tensor) -> torch.Tensor:
    """``(batch,)``, or ``(batch, tokens)`` where some tokens are held: those are without noise."""
    if state.held_tokens is None:
        return timestep.repeat(state.batch)
    return ((1 - state.held_tokens) * timestep).repeat(state.batch, 1)
