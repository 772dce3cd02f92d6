"""What becomes of a picture in the latents, by the names that families use.

Each function takes the outputs of the ``prepare_latents`` of diffusers' image-to-video class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .state import GenerationState

Outputs = tuple[torch.Tensor, ...]


def _beside(state: GenerationState, outputs: Outputs) -> None:
    """The noise, and the encoded picture, which the denoiser sees in further channels."""
    state.latents, state.beside = outputs


def _first_frame(state: GenerationState, outputs: Outputs) -> None:
    """The noise, the encoded picture, and a mask that is 0 in the first frame: the picture stands there and stays."""
    noise, picture, free = outputs
    state.held = free == 0
    state.latents = torch.where(state.held, picture, noise)


def _held_tokens(state: GenerationState, outputs: Outputs) -> None:
    """Packed latents with the picture in the first frame, and a mask ``(1, tokens)`` that is 1 there."""
    state.latents, state.held_tokens = outputs
    state.held = state.held_tokens.unsqueeze(-1).bool()


PICTURE_LATENTS: dict[str, Callable[[GenerationState, Outputs], None]] = {
    "beside": _beside,
    "first_frame": _first_frame,
    "held_tokens": _held_tokens,
}
