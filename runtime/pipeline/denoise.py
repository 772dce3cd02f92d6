"""The denoising loop."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from ...frontends.loading import Component
from .guidance import cfg_scale, dynamic_scale, second_scale
from .joint_inputs import joined, joint_constants, shared_inputs
from .joint_stage import JointStage
from .state import GenerationState


class DenoiseStage(JointStage):
    """Calls the denoiser once per step, for all generations; a batch, which a planner may split over ranks.

    It holds the samples of each generation one behind the other: one, or two with classifier-free guidance. Where
    there are fewer generations than the ranks are divided among, the last one's samples fill the others' places.
    """

    requires = ("text", "timesteps", "latents")
    provides = ("latents",)

    def steps(self, state: GenerationState) -> int:
        return state.request.num_inference_steps

    def kind(self, state: GenerationState) -> Hashable:
        assert state.timesteps is not None and state.latents is not None
        tensors = {"latents": state.latents, "beside": state.beside, "held": state.held_tokens, **(state.text or {})}
        return (
            tuple((name, t.shape, t.dtype) for name, t in tensors.items() if t is not None),
            tuple(state.timesteps.tolist()),
            shared_inputs(state),
        )

    def run_joint(self, states: Sequence[GenerationState]) -> None:
        first = states[0]
        assert first.timesteps is not None
        self._tell_compiled("reset_cache")
        seats = [*states, *[states[-1]] * (self.context.samples - len(states))]
        constant = joint_constants(seats)
        for state in states:
            if state.scheduler is None:  # a stage of one's own has set the timesteps of the pipeline's
                state.scheduler = copy.deepcopy(self.context.components["scheduler"].value)
        steps = [SchedulerStep(state.scheduler, state) for state in states]
        for index, timestep in enumerate(first.timesteps):
            self._tell_compiled("set_step", index)
            start = time.perf_counter()
            predictions = self._predict(seats, timestep, constant)
            for state, step, predicted in zip(states, steps, predictions, strict=False):
                if state.error is None:
                    with state.keeping_error():
                        self._advance(state, step(predicted, index))
            self.synchronize()
            seconds = time.perf_counter() - start
            first.progress.step(seconds)
            for state in states:
                if state.error is None:
                    with state.keeping_error():
                        state.step_done(timestep, seconds)
            if all(state.error is not None for state in states):
                break
        self._tell_compiled("set_step", None)

    @staticmethod
    def _advance(state: GenerationState, denoised: torch.Tensor) -> None:
        assert state.latents is not None
        state.latents = denoised if state.held is None else torch.where(state.held, state.latents, denoised)

    def _tell_compiled(self, method: str, *arguments: Any) -> None:
        """Call a method of every component that has it: compiled denoisers keep what depends on the step."""
        for component in self.context.components.values():
            listener = getattr(component.value, method, None)
            if listener is not None:
                listener(*arguments)

    def _predict(
        self, seats: Sequence[GenerationState], timestep: torch.Tensor, constant: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        """The denoiser's output for each sample, float32, guided where a text is a batch of two."""
        family = self.context.family
        chosen = [self._denoiser_and_scale(state, timestep) for state in seats]
        denoiser = chosen[0][0]
        times = joined([_timestep_argument(state, timestep) for state in seats])
        if family.casts_timestep:  # others not, as in bfloat16 a timestep of 999 would be 1000
            times = times.to(denoiser.dtype)
        predicted: torch.Tensor = denoiser.value(
            **{
                family.latents_argument: joined(
                    [self._denoiser_latents(state, timestep, denoiser.dtype) for state in seats]
                ),
                family.timestep_argument: times,
            },
            **constant,
            return_dict=False,
        )[0].float()
        each = torch.split(predicted, [state.batch for state in seats])
        return [_guided(part, scale) for part, (_, scale) in zip(each, chosen, strict=True)]

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
        latents = state.latents
        if hasattr(state.scheduler, "scale_model_input"):
            latents = state.scheduler.scale_model_input(latents, timestep)
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


def _guided(predicted: torch.Tensor, scale: float) -> torch.Tensor:
    """Of one sample with its text, or of two, the second one with the negative prompt."""
    if predicted.shape[0] == 1:
        return predicted
    conditional, unconditional = predicted.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def _timestep_argument(state: GenerationState, timestep: torch.Tensor) -> torch.Tensor:
    """``(batch,)``, or ``(batch, tokens)`` where some tokens are held: those are without noise."""
    if state.held_tokens is None:
        return timestep.repeat(state.batch)
    return ((1 - state.held_tokens) * timestep).repeat(state.batch, 1)
