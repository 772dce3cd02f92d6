"""The initial noise, and what a picture makes of it."""

from __future__ import annotations

import torch

from .picture import read_picture
from .picture_latents import PICTURE_LATENTS
from .stage import Stage
from .state import GenerationState


class LatentsStage(Stage):
    """Draws the noise on CPU, so that a seed gives the same video on any device and any number of ranks."""

    provides = ("latents", "latent_frames")

    def run(self, state: GenerationState) -> None:
        request, context = state.request, self.context
        family, geometry = context.family, context.geometry
        frames = geometry.latent_frames(request.num_frames)
        state.padding_frames = -frames % geometry.patch_size[0] if family.pads_latent_frames else 0
        state.latent_frames = frames + state.padding_frames
        arguments = {
            "batch_size": 1,
            "num_channels_latents": context.config(family.latent_channels),
            "height": request.height,
            "width": request.width,
            "num_frames": request.num_frames + state.padding_frames * geometry.temporal_factor,
            "dtype": torch.float32,
            "device": context.device,
            "generator": state.generator,
        }
        if request.image is None or family.picture is None:
            state.latents = context.reference.prepare_latents(**arguments)
            return
        reference = context.picture_reference
        image = reference.video_processor.preprocess(
            read_picture(request.image), height=request.height, width=request.width
        )
        image = image.to(context.device, context.components["vae"].dtype)
        PICTURE_LATENTS[family.picture.latents](state, reference.prepare_latents(image=image, **arguments))

    def verify_output(self, state: GenerationState) -> None:
        super().verify_output(state)
        self.refuse_non_finite(state.latents, "the initial latents hold NaN or infinity", "look at the picture")
