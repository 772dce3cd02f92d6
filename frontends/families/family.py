"""The record that describes a model family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


@dataclass(frozen=True)
class Family:
    """What differs between pipelines, as data. Names of stages are resolved by ``runtime/pipeline``.

    Config keys are written ``role.key`` and read from that component's config, with the defaults of its class
    for keys the file leaves out.

    Attributes:
        name: short name of the family.
        pipeline_class: ``_class_name`` in ``model_index.json``.
        index_values: further entries of ``model_index.json`` and the values they must have (absent is None).
        roles: components the stages use; each is a subfolder of the same name.
        compiled: roles whose module runs as a compiled program.
        stages: stage names, in the order they run.
        defaults: values of sampling fields that the user leaves open.
        accelerator_dtypes: dtype per role on an accelerator; everything is float32 on CPU.
        denoiser_arguments: the denoiser's own argument name for the latents, the timestep and the text.
        spatial_factor: config key, pixels per latent in height and in width.
        temporal_factor: config key, frames per latent frame after the first one.
        patch_size: config key, latents per token in (time, height, width).
        latent_channels: config key, channels of the latents.
        latents_mean: config key, per-channel mean that the decoder expects the latents to have.
        latents_std: config key, per-channel standard deviation, likewise.
        train_timesteps: config key, the largest number of denoising steps.
        flow_shift_keys: names under which a scheduler may take the flow shift.
    """

    name: str
    pipeline_class: str
    index_values: Mapping[str, Any]
    roles: tuple[str, ...]
    compiled: tuple[str, ...]
    stages: tuple[str, ...]
    defaults: Mapping[str, Any]
    accelerator_dtypes: Mapping[str, str]
    denoiser_arguments: Mapping[str, str] = field(
        default_factory=lambda: {
            "latents": "hidden_states",
            "timestep": "timestep",
            "text": "encoder_hidden_states",
        }
    )
    spatial_factor: str = "vae.scale_factor_spatial"
    temporal_factor: str = "vae.scale_factor_temporal"
    patch_size: str = "transformer.patch_size"
    latent_channels: str = "transformer.in_channels"
    latents_mean: str = "vae.latents_mean"
    latents_std: str = "vae.latents_std"
    train_timesteps: str = "scheduler.num_train_timesteps"
    flow_shift_keys: tuple[str, ...] = ("flow_shift", "shift")

    def __post_init__(self) -> None:
        for name in ("index_values", "defaults", "accelerator_dtypes", "denoiser_arguments"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    def mismatches(self, model_index: Mapping[str, object]) -> str:
        """The entries of ``model_index.json`` that are not as this family needs them; empty if all are."""
        found = []
        for key, wanted in self.index_values.items():
            value = model_index.get(key)
            if isinstance(value, list) and all(part is None for part in value):
                value = None  # Diffusers writes a component that is left out as [null, null]
            if value != wanted and not (wanted is None and value is False):
                found.append(f"{key}={wanted} (here {value})")
        return ", ".join(found)
