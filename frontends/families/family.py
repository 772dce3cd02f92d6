"""The record that describes a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ConfigReader = Callable[[str], Any]
"""Reads a config value by its key ``role.key``."""


class _Given:
    """Stands for "any value but none" in ``index_values``."""

    def __repr__(self) -> str:
        return "<any>"


GIVEN = _Given()


def _freeze(record: object, *names: str) -> None:
    for name in names:
        object.__setattr__(record, name, MappingProxyType(dict(getattr(record, name))))


@dataclass(frozen=True)
class Preset:
    """The settings that one or several checkpoints of a family are best run with.

    Attributes:
        ids: hub ids that they are for.
        values: sampling fields; those that the family's first preset has too may be left out.
        flow_shift: flow shift of the scheduler, where the one in its config is not the best.
        when: config values, by key ``role.key``, that tell a folder without an id to be one of these checkpoints.
    """

    ids: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    flow_shift: float | None = None
    when: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze(self, "values", "when")


@dataclass(frozen=True)
class Picture:
    """How a family takes the picture that a video starts from.

    Attributes:
        pipeline_class: the class in diffusers that takes it.
        required: whether there is no video without one.
        latents: what becomes of it, by name: a function of ``runtime/pipeline/picture_latents.py``.
        encoder: whether an image encoder's embedding of it goes to the denoiser too, as ``embedding``.
        embedding: the denoiser's argument for this embedding.
    """

    pipeline_class: str
    latents: str
    required: bool = False
    encoder: str | None = None
    embedding: str = "encoder_hidden_states_image"


@dataclass(frozen=True)
class Family:
    """What differs between pipelines, as data. Names of stages and inputs are resolved by ``runtime/pipeline``.

    Config keys are written ``role.key`` and read from that component's config, with the defaults of its class
    for keys the file leaves out; the role ``model_index`` is ``model_index.json`` itself.

    Attributes:
        name: short name of the family.
        pipeline_class: ``_class_name`` in ``model_index.json``, and a class in diffusers: its methods encode the prompt
            and draw the latents.
        roles: components the stages use; each is a subfolder of the same name.
        presets: sampling defaults by checkpoint; the first is complete, and used where none is meant. A family takes
            the sampling fields that are named there, and no others.
        accelerator_dtypes: dtype per role on an accelerator; everything is float32 on CPU.
        index_values: further entries of ``model_index.json`` and the values they must have (absent is None,
            ``GIVEN`` is anything else).
        compiled: roles whose module runs as a compiled program.
        encoders: roles whose module embeds the prompt or the picture; on several ranks they are compiled too.
        stages: stage names, in the order they run.
        text: the denoiser's arguments for what the pipeline's ``encode_prompt`` returns for one prompt, in its order.
        latents_argument, timestep_argument: the denoiser's arguments for the latents and the timestep.
        casts_timestep: whether the denoiser takes timesteps in its own dtype alone.
        inputs: further arguments of the denoiser, by the names in ``runtime/pipeline/inputs.py``.
        guidance: ``classifier-free``, or ``embedded`` for a denoiser that takes the scale as an argument.
        picture: how it takes a picture; None if it does not.
        timestep_per_token: whether the timestep is one per token even without a picture.
        text_length_is_fixed: whether the denoiser takes no other number of text tokens than the default.
        size_is_fixed_if: config key of a flag; where it is set, the denoiser takes no other height and width than
            its ``sample_height`` and ``sample_width`` in latents.
        most_positions: key of the denoiser's config; if it is there, the most tokens along time, height and width.
        sigmas: the schedule of noise levels, by the names in ``runtime/pipeline/timesteps.py``.
        least_steps: the smallest number of denoising steps that this schedule has.
        boundary: config key, the fraction of the training timesteps below which the second denoiser works.
        channel_dim: dimension of the latents that holds their channels.
        pads_latent_frames: whether frames are added to fill the last patch in time, and dropped before decoding.
        latent_channels: config key, channels of the latents.
        spatial_factor: pixels per latent in height and in width: a number, or the config key that has it.
        temporal_factor: frames per latent frame after the first one, likewise.
        train_timesteps: config key, the largest number of denoising steps.
        flow_shift_keys: names under which a scheduler may take the flow shift.
    """

    name: str
    pipeline_class: str
    roles: tuple[str, ...]
    presets: tuple[Preset, ...]
    accelerator_dtypes: Mapping[str, str]
    index_values: Mapping[str, Any] = field(default_factory=dict)
    compiled: tuple[str, ...] = ("transformer",)
    encoders: tuple[str, ...] = ("text_encoder",)
    stages: tuple[str, ...] = (
        "validate",
        "encode_text",
        "encode_image",
        "timesteps",
        "latents",
        "inputs",
        "denoise",
        "decode",
    )
    text: tuple[str, ...] = ("encoder_hidden_states",)
    latents_argument: str = "hidden_states"
    timestep_argument: str = "timestep"
    casts_timestep: bool = False
    inputs: tuple[str, ...] = ()
    guidance: str = "classifier-free"
    picture: Picture | None = None
    timestep_per_token: bool = False
    text_length_is_fixed: bool = False
    size_is_fixed_if: str | None = None
    most_positions: str | None = None
    sigmas: str = "scheduler"
    least_steps: int = 1
    boundary: str | None = None
    channel_dim: int = 1
    pads_latent_frames: bool = False
    latent_channels: str = "transformer.in_channels"
    spatial_factor: str | int = "vae.spatial_compression_ratio"
    temporal_factor: str | int = "vae.temporal_compression_ratio"
    train_timesteps: str = "scheduler.num_train_timesteps"
    flow_shift_keys: tuple[str, ...] = ("flow_shift", "shift")

    def __post_init__(self) -> None:
        _freeze(self, "index_values", "accelerator_dtypes")

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The sampling defaults of a checkpoint that nothing more is known of."""
        return self.presets[0].values

    @property
    def ids(self) -> tuple[str, ...]:
        """All hub ids that the family is known under."""
        return tuple(model_id for preset in self.presets for model_id in preset.ids)

    def preset_for(self, model_id: str | None = None, config: ConfigReader | None = None) -> Preset:
        """The preset of a checkpoint, complete: by its hub id, or else by its configs, or else the first.

        Args:
            model_id: the hub id, or a folder.
            config: reads a config value by its key; None if the configs are not at hand.
        """
        for preset in self.presets:
            if model_id in preset.ids:
                return self._complete(preset)
        for preset in self.presets:
            if config is not None and preset.when and all(config(key) == value for key, value in preset.when.items()):
                return self._complete(preset)
        return self.presets[0]

    def defaults_for(self, model_id: str | None = None, config: ConfigReader | None = None) -> Mapping[str, Any]:
        """The sampling defaults of a checkpoint; see :meth:`preset_for`."""
        return self.preset_for(model_id, config).values

    def mismatches(self, model_index: Mapping[str, object]) -> str:
        """The entries of ``model_index.json`` that are not as this family needs them; empty if all are."""
        found = []
        for key, wanted in self.index_values.items():
            value = model_index.get(key)
            if value is False or (isinstance(value, list) and all(part is None for part in value)):
                value = None  # Diffusers writes a component that is left out as [null, null]
            if value != wanted and not (wanted is GIVEN and value is not None):
                found.append(f"{key}={wanted} (here {value})")
        return ", ".join(found)

    def _complete(self, preset: Preset) -> Preset:
        return Preset(preset.ids, {**self.defaults, **preset.values}, preset.flow_shift, preset.when)
