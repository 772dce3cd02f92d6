"""What a callback is told after each denoising step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class StepInfo:
    """One denoising step that is done.

    Attributes:
        step: its number, from 1.
        num_steps: how many there will be.
        timestep: the scheduler's.
        seconds: wall time it took.
        latents: as they are now; to be read, not to be written.
        prompt: of which video; several may be made at once, which take their steps in turns.
    """

    step: int
    num_steps: int
    timestep: float
    seconds: float
    latents: torch.Tensor = field(repr=False)
    prompt: str


StepCallback = Callable[[StepInfo], bool | None]
"""Called after each denoising step; the generation is cancelled if it returns False."""
