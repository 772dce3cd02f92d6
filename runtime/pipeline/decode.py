"""From latents to frames."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

import fastvideo_ir as ir

from .joint_inputs import joined
from .joint_stage import JointStage
from .state import GenerationState


class DecodeStage(JointStage):
    """Undoes the packing and the normalisation of the latents and decodes them to uint8 frames.

    Several videos are decoded at once where ranks decode; one device would only need more memory for it.
    """

    requires = ("latents", "latent_frames")
    provides = ("frames",)

    def kind(self, state: GenerationState) -> Hashable:
        is_program = "decode" in vars(self.context.components["vae"].value)  # in place of the module's own method
        return state.latents.shape if is_program and state.latents is not None else id(state)

    def run_joint(self, states: Sequence[GenerationState]) -> None:
        vae = self.context.components["vae"]
        latents = [self._denormalise(self._unpack(state)) for state in states]
        options: dict[str, Any] = {}
        if vae.config.get("timestep_conditioning"):
            latents = [self._mix_noise(state, given) for state, given in zip(states, latents, strict=True)]
            levels = [state.request.decode_timestep for state in states]
            options["temb"] = torch.tensor(levels, device=latents[0].device, dtype=vae.dtype)
        decoded = vae.value.decode(joined(latents).to(vae.dtype), **options, return_dict=False)[0]
        for state, video in zip(states, decoded, strict=True):
            with state.keeping_error():
                state.frames = self._pixels(video.float())

    def _pixels(self, video: torch.Tensor) -> np.ndarray:
        """``(channels, frames, height, width)`` from -1 to 1 as ``(frames, height, width, channels)``, uint8."""
        self.refuse_non_finite(video, "the decoded video holds NaN or infinity", "try dtype={'vae': 'float32'}")
        pixels = ((video / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()

    def verify_output(self, state: GenerationState) -> None:
        super().verify_output(state)
        request = state.request
        wanted = (request.num_frames, request.height, request.width, 3)
        if state.frames is not None and state.frames.shape != wanted:
            raise ir.errors.FastVideoError(
                f"the VAE decoded frames of shape {state.frames.shape}, asked were {wanted}",
                hint="its config does not fit its weights",
            )

    def _unpack(self, state: GenerationState) -> torch.Tensor:
        """``(1, channels, latent frames, latent height, latent width)``, without the frames that only fill a patch."""
        latents, request, geometry = state.latents, state.request, self.context.geometry
        assert latents is not None and state.latent_frames is not None
        if latents.ndim == 3:  # tokens
            time, size, _ = geometry.patch_size
            latents = self.context.reference._unpack_latents(
                latents,
                state.latent_frames,
                request.height // geometry.spatial_factor,
                request.width // geometry.spatial_factor,
                size,
                time,
            )
        elif self.context.family.channel_dim == 2:
            latents = latents.transpose(1, 2)
        return latents[:, :, state.padding_frames :]

    def _denormalise(self, latents: torch.Tensor) -> torch.Tensor:
        """To the scale that the decoder expects, by whatever statistics the VAE has."""
        mean, std = self._statistic("latents_mean", latents), self._statistic("latents_std", latents)
        if std is not None:
            latents = latents * std
        scaling_factor = self.context.components["vae"].config.get("scaling_factor")
        if scaling_factor is not None:
            latents = latents / scaling_factor
        return latents if mean is None else latents + mean

    def _statistic(self, name: str, like: torch.Tensor) -> torch.Tensor | None:
        """One value per channel, from the VAE's config or else from its weights."""
        vae = self.context.components["vae"]
        values = vae.config[name] if name in vae.config else getattr(vae.value, name, None)
        if values is None:
            return None
        return torch.as_tensor(values).to(like.device, like.dtype).view(1, -1, 1, 1, 1)

    def _mix_noise(self, state: GenerationState, latents: torch.Tensor) -> torch.Tensor:
        scale = state.request.decode_noise_scale or 0.0
        noise: torch.Tensor = randn_tensor(latents.shape, state.generator, latents.device, latents.dtype)
        return (1 - scale) * latents + scale * noise
