"""Further arguments of denoisers, the same in every step, by the names that families use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .stage import Stage, StageContext
from .state import GenerationState


class InputsStage(Stage):
    """Makes what the denoiser is told besides latents, timestep and text."""

    requires = ("text", "latents", "latent_frames")

    def run(self, state: GenerationState) -> None:
        family = self.context.family
        for name in family.inputs:
            INPUTS[name](self.context, state)
        if family.guidance == "embedded":
            _embedded_guidance(self.context, state)
        if family.timestep_per_token and state.held_tokens is None:
            _held_patches(self.context, state)


def _embedded_guidance(context: StageContext, state: GenerationState) -> None:
    """The scale, as a denoiser that was distilled with guidance is told it."""
    dtype = context.components["transformer"].dtype
    scales = torch.tensor([state.request.guidance_scale] * state.batch, dtype=dtype, device=context.device)
    state.inputs["guidance"] = scales * 1000.0


def _held_patches(context: StageContext, state: GenerationState) -> None:
    """Which tokens stand for latents that the picture gives; none without a picture."""
    assert state.latents is not None
    _, height, width = context.geometry.patch_size
    held = torch.zeros_like(state.latents, dtype=torch.bool) if state.held is None else state.held
    state.held_tokens = held[:1, 0, :, ::height, ::width].flatten(1).float()


def _rotary_embedding(context: StageContext, state: GenerationState) -> None:
    """Cosines and sines of the positions, for denoisers that do not make their own."""
    if not context.config("transformer.use_rotary_positional_embeddings"):
        return
    request = state.request
    state.inputs["image_rotary_emb"] = context.reference._prepare_rotary_positional_embeddings(
        request.height, request.width, state.latent_frames, context.device
    )


def _offset_embedding(context: StageContext, state: GenerationState) -> None:
    """The constant that denoisers with an offset embedding were trained with."""
    if context.config("transformer.ofs_embed_dim") is not None:
        state.inputs["ofs"] = torch.full((1,), 2.0, device=context.device)


def _latent_sizes(context: StageContext, state: GenerationState) -> None:
    """The grid of the packed latents, and how far apart its points are in seconds and pixels."""
    request, geometry = state.request, context.geometry
    state.inputs["num_frames"] = state.latent_frames
    state.inputs["height"] = request.height // geometry.spatial_factor
    state.inputs["width"] = request.width // geometry.spatial_factor
    state.inputs["rope_interpolation_scale"] = (
        geometry.temporal_factor / request.fps,
        geometry.spatial_factor,
        geometry.spatial_factor,
    )


def _empty_picture(context: StageContext, state: GenerationState) -> None:
    """Zeros in place of a picture's latents, mask and embedding."""
    assert state.latents is not None
    reference, dtype = context.reference, torch.float32
    latents, mask = reference.prepare_cond_latents_and_mask(state.latents, dtype, context.device)
    state.beside = torch.cat([latents, mask], dim=context.family.channel_dim)
    state.inputs["image_embeds"] = torch.zeros(
        state.batch,
        reference.vision_num_semantic_tokens,
        reference.vision_states_dim,
        dtype=context.components["transformer"].dtype,
        device=context.device,
    )


INPUTS: dict[str, Callable[[StageContext, GenerationState], None]] = {
    "empty_picture": _empty_picture,
    "latent_sizes": _latent_sizes,
    "offset_embedding": _offset_embedding,
    "rotary_embedding": _rotary_embedding,
}
