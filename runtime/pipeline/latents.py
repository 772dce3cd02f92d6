"""The initial noise."""

from __future__ import annotations

import torch

from .stage import Stage
from .state import GenerationState


class LatentsStage(Stage):
    """Draws the noise on CPU, so that a seed gives the same video on any device and any number of ranks."""

    provides = ("latents",)

    def run(self, state: GenerationState) -> None:
        request = state.request
        shape = self.context.geometry.latent_shape(request.num_frames, request.height, request.width)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        state.latents = noise.to(self.context.device)
