"""What travels through the stages: the request, and the state that they fill in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

import fastvideo_ir as ir

from .progress import NO_PROGRESS, Progress
from .steps import StepCallback, StepInfo


@dataclass(frozen=True)
class GenerationRequest:
    """One video that is asked for, with every field decided.

    Attributes:
        prompt: what to show.
        negative_prompt: what to avoid; used when guidance is on.
        height, width: size in pixels.
        num_frames: number of frames.
        fps: frames per second of the file.
        num_inference_steps: number of denoising steps.
        guidance_scale: classifier-free guidance (Ho and Salimans 2022); on above 1.
        seed: seed of the initial noise.
        max_sequence_length: text tokens; a longer prompt is cut, a shorter one padded.
    """

    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    seed: int
    max_sequence_length: int

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on."""
        return self.guidance_scale > 1.0


@dataclass
class GenerationState:
    """Filled in stage by stage; None is "not yet".

    Attributes:
        request: what is asked for.
        progress: told of stages and steps.
        on_step: called after each denoising step.
        text: text embeddings ``(1, tokens, dim)``, or ``(2, tokens, dim)`` with guidance: the prompt, then
            the negative prompt.
        timesteps: ``(steps,)``, in the dtype in which the scheduler gives them.
        latents: ``(1, channels, latent frames, latent height, latent width)``, float32.
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        seconds: wall time of each stage that ran.
        step_seconds: wall time of each denoising step.
    """

    request: GenerationRequest
    progress: Progress = NO_PROGRESS
    on_step: StepCallback | None = None
    text: torch.Tensor | None = None
    timesteps: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    frames: np.ndarray | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)

    def step_done(self, timestep: torch.Tensor, seconds: float) -> None:
        """A denoising step has set the latents: tell whoever listens.

        Raises:
            GenerationCancelledError: the callback returned False.
        """
        assert self.latents is not None
        self.step_seconds.append(seconds)
        self.progress.step(seconds)
        if self.on_step is None:
            return
        step, num_steps = len(self.step_seconds), self.request.num_inference_steps
        answer = self.on_step(StepInfo(step, num_steps, float(timestep), seconds, self.latents))
        if answer is False:
            raise ir.errors.GenerationCancelledError(f"cancelled by the callback after step {step} of {num_steps}")
