"""From latents to frames."""

from __future__ import annotations

import torch

import fastvideo_ir as ir

from .stage import Stage
from .state import GenerationState


class DecodeStage(Stage):
    """Undoes the normalisation of the latents and decodes them to uint8 frames."""

    requires = ("latents",)
    provides = ("frames",)

    def run(self, state: GenerationState) -> None:
        assert state.latents is not None
        vae, family = self.context.components["vae"], self.context.pipeline.family
        latents = state.latents.to(vae.dtype)
        mean = self._per_channel(family.latents_mean, latents)
        std = self._per_channel(family.latents_std, latents)
        video = vae.value.decode(latents * std + mean, return_dict=False)[0][0].float()
        if not torch.isfinite(video).all():
            raise ir.errors.FastVideoError(
                "the decoded video holds NaN or infinity", hint="try dtype={'vae': 'float32'}"
            )
        pixels = ((video / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        state.frames = pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()

    def verify_output(self, state: GenerationState) -> None:
        super().verify_output(state)
        request = state.request
        wanted = (request.num_frames, request.height, request.width, 3)
        if state.frames is not None and state.frames.shape != wanted:
            raise ir.errors.FastVideoError(
                f"the VAE decoded frames of shape {state.frames.shape}, asked were {wanted}",
                hint="its config does not fit its weights",
            )

    def _per_channel(self, key: str, like: torch.Tensor) -> torch.Tensor:
        values = torch.tensor(self.context.config(key), device=like.device, dtype=like.dtype)
        return values.view(1, -1, 1, 1, 1)
