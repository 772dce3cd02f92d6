"""What travels through the stages: the request, and the state that they fill in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import fastvideo_ir as ir

from .picture import PictureInput
from .progress import NO_PROGRESS, Progress
from .steps import StepCallback, StepInfo


@dataclass(frozen=True)
class GenerationRequest:
    """One video that is asked for, with every field decided. Fields that not all families take are None where unused.

    Attributes:
        prompt: what to show.
        negative_prompt: what to avoid; used when classifier-free guidance is on.
        height, width: size in pixels.
        num_frames: number of frames.
        fps: frames per second of the file.
        num_inference_steps: number of denoising steps.
        guidance_scale: classifier-free guidance (Ho and Salimans 2022), on above 1; or the scale that a denoiser is
            told, if it was distilled with guidance.
        seed: seed of all noise.
        max_sequence_length: text tokens; a longer prompt is cut, a shorter one padded.
        image: the picture that the video starts from.
        guidance_scale_2: guidance of the second denoiser, which works on the low noise levels.
        true_cfg_scale: classifier-free guidance of a denoiser that is told ``guidance_scale``; on above 1.
        use_dynamic_cfg: whether guidance grows from step to step.
        decode_timestep: noise level that the decoder is told.
        decode_noise_scale: how much noise is mixed into the latents before they are decoded.
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
    image: PictureInput | None = None
    guidance_scale_2: float | None = None
    true_cfg_scale: float | None = None
    use_dynamic_cfg: bool | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None


@dataclass
class GenerationState:
    """Filled in stage by stage; None is "not yet".

    Attributes:
        request: what is asked for.
        progress: told of stages and steps.
        on_step: called after each denoising step.
        generator: source of all noise, on the CPU, so that a seed gives the same video on any device and any number
            of ranks.
        text: the denoiser's text arguments by name, each ``(1, …)``, or ``(2, …)`` with classifier-free guidance: for
            the prompt, then for the negative prompt.
        timesteps: ``(steps,)``, in the dtype in which the scheduler gives them.
        scheduler: this generation's own, told the timesteps; it keeps what one step leaves for the next.
        latents: float32, in the layout that the family's denoiser works in.
        latent_frames: frames of the latents, those that only fill the last patch among them.
        padding_frames: how many of the first latent frames are not decoded.
        beside: what the denoiser sees in further channels of the latents.
        held: bool, broadcastable to the latents: where they are given by the picture and stay.
        held_tokens: ``(1, tokens)``, 1 where a token is held; a timestep per token is zero there.
        inputs: further arguments of the denoiser, the same in every step. A tensor whose first dim has ``batch``
            entries says something of each sample; anything else holds for any number of samples.
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        seconds: wall time of each stage that ran.
        step_seconds: wall time of each denoising step.
        error: why it ended early, where other generations went on.
    """

    request: GenerationRequest
    progress: Progress = NO_PROGRESS
    on_step: StepCallback | None = None
    generator: torch.Generator = field(init=False)
    text: dict[str, torch.Tensor] | None = None
    timesteps: torch.Tensor | None = None
    scheduler: Any = None
    latents: torch.Tensor | None = None
    latent_frames: int | None = None
    padding_frames: int = 0
    beside: torch.Tensor | None = None
    held: torch.Tensor | None = None
    held_tokens: torch.Tensor | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    frames: np.ndarray | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(self.request.seed)

    @property
    def batch(self) -> int:
        """How many samples the denoiser sees at once: two with classifier-free guidance."""
        return next(iter(self.text.values())).shape[0] if self.text else 1

    def step_done(self, timestep: torch.Tensor, seconds: float) -> None:
        """A denoising step has set the latents: tell whoever listens.

        Raises:
            GenerationCancelledError: the callback returned False.
        """
        assert self.latents is not None
        self.step_seconds.append(seconds)
        if self.on_step is None:
            return
        step, num_steps = len(self.step_seconds), self.request.num_inference_steps
        answer = self.on_step(StepInfo(step, num_steps, float(timestep), seconds, self.latents, self.request.prompt))
        if answer is False:
            raise ir.errors.GenerationCancelledError(f"cancelled by the callback after step {step} of {num_steps}")

    @contextmanager
    def keeping_error(self) -> Iterator[None]:
        """What fails within ends this generation alone, and its reason is kept; a cancelled one ends all."""
        try:
            yield
        except ir.errors.GenerationCancelledError:
            raise
        except Exception as error:
            self.error = error
