"""What a callback is told after each denoising step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from fastvideo_ir.errors import InvalidArgumentError


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


def check_callback(callback: object) -> None:
    """Refuse what cannot be called with one :class:`StepInfo`; None is no callback.

    Raises:
        InvalidArgumentError: it is no function, or takes more or fewer arguments.
    """
    if callback is None:
        return
    if not callable(callback):
        raise InvalidArgumentError(f"on_step must be a function of a StepInfo, got {callback!r}")
    try:
        signature = inspect.signature(callback)
    except ValueError:
        return  # some of those that are written in C tell nothing of what they take
    try:
        signature.bind(None)
    except TypeError as error:
        raise InvalidArgumentError(
            f"on_step is called with one StepInfo, which does not fit {signature}: {error}",
            hint="the step, its number of steps, timestep and latents are attributes of that one argument",
        ) from None
