"""The denoising loop."""

from __future__ import annotations

import time

import torch

import fastvideo_ir as ir

from .stage import Stage
from .state import GenerationState


class DenoiseStage(Stage):
    """Calls the denoiser once per step; guidance is a batch of two, which a planner may split over ranks."""

    requires = ("text", "timesteps", "latents")
    provides = ("latents",)

    def steps(self, state: GenerationState) -> int:
        return state.request.num_inference_steps

    def run(self, state: GenerationState) -> None:
        assert state.text is not None and state.timesteps is not None and state.latents is not None
        scheduler = self.context.components["scheduler"].value
        for timestep in state.timesteps:
            start = time.perf_counter()
            noise = self._predict(state.latents, timestep, state.text, state.request.guidance_scale)
            state.latents = scheduler.step(noise, timestep, state.latents, return_dict=False)[0]
            self.synchronize()
            state.step_done(timestep, time.perf_counter() - start)

    def _predict(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, scale: float) -> torch.Tensor:
        """The denoiser's output for one sample, guided if ``text`` is a batch of two."""
        denoiser = self.context.components["transformer"]
        arguments = self.context.pipeline.family.denoiser_arguments
        batch = text.shape[0]
        inputs = {
            arguments["latents"]: latents.to(denoiser.dtype).repeat(batch, 1, 1, 1, 1),
            # Never cast: in bfloat16 a timestep of 999 would be 1000.
            arguments["timestep"]: timestep.repeat(batch),
            arguments["text"]: text,
        }
        noise: torch.Tensor = denoiser.value(**inputs, return_dict=False)[0]
        if batch == 1:
            return noise
        conditional, unconditional = noise.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def verify_output(self, state: GenerationState) -> None:
        super().verify_output(state)
        if state.latents is not None and not torch.isfinite(state.latents).all():
            raise ir.errors.FastVideoError(
                "the denoised latents hold NaN or infinity",
                hint="try dtype='float32' for the transformer, or another attention backend",
            )
