"""What a generation gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class VideoResult:
    """One generated video.

    Attributes:
        prompt: what was asked.
        path: the file (or folder of frames), or None if it was not (or could not be) saved.
        save_error: why it could not be saved where it was asked to be, otherwise None.
        frames: ``(frames, height, width, 3)``, uint8, RGB; kept if asked for, or if saving failed.
        latents: float32, in the layout of the family's denoiser, mostly ``(1, channels, latent frames, latent height,
            latent width)``; kept if asked for.
        seed: seed of the initial noise, drawn or given.
        fps: frames per second.
        seconds: wall time per stage.
        step_seconds: wall time of each denoising step.
        error: why there is no video, otherwise None. Only where several prompts were given at once: the failure of
            one leaves the others be.
    """

    prompt: str
    seed: int
    fps: float
    path: Path | None = None
    save_error: str | None = None
    frames: np.ndarray | None = field(default=None, repr=False)
    latents: torch.Tensor | None = field(default=None, repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)
    step_seconds: tuple[float, ...] = field(default=(), repr=False)
    error: Exception | None = None
