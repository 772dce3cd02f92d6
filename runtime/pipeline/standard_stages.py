"""The stages that come with the project, and how a pipeline takes them."""

from __future__ import annotations

from typing import Protocol

import fastvideo_ir as ir

from .decode import DecodeStage
from .denoise import DenoiseStage
from .encode_image import EncodeImageStage
from .encode_text import EncodeTextStage
from .inputs import InputsStage
from .latents import LatentsStage
from .stage import Stage
from .timesteps import TimestepsStage
from .validate import ValidateStage

STAGES: dict[str, type[Stage]] = {
    "validate": ValidateStage,
    "encode_text": EncodeTextStage,
    "encode_image": EncodeImageStage,
    "timesteps": TimestepsStage,
    "latents": LatentsStage,
    "inputs": InputsStage,
    "denoise": DenoiseStage,
    "decode": DecodeStage,
}
"""The stages that a family may name."""


class TakesStages(Protocol):
    """A pipeline, as far as its stages are concerned."""

    stages: dict[str, Stage]

    def add_stage(self, name: str, stage: Stage, *, before: str | None = None) -> None:
        """Add a stage under a new name."""


class StandardStages:
    """Adds the project's own stages to a pipeline, each under its usual name, at the end.

    What a stage builds on comes with it if it is not there yet: ``add_transformer_stage`` brings validation,
    timesteps, latents and the denoiser's further inputs.
    """

    @staticmethod
    def add(pipeline: TakesStages, name: str) -> None:
        """Add the stage of this name.

        Raises:
            UnknownNameError: there is none.
            InvalidArgumentError: the pipeline has it already.
        """
        if name not in STAGES:
            raise ir.errors.UnknownNameError("stage", name, STAGES)
        pipeline.add_stage(name, STAGES[name]())

    @staticmethod
    def add_validation_stage(pipeline: TakesStages) -> None:
        """Refuses a request that the models cannot serve."""
        StandardStages.add(pipeline, "validate")

    @staticmethod
    def add_text_encoding_stage(pipeline: TakesStages) -> None:
        """Encodes the prompts."""
        _add_missing(pipeline, "validate")
        StandardStages.add(pipeline, "encode_text")

    @staticmethod
    def add_image_encoding_stage(pipeline: TakesStages) -> None:
        """Embeds the picture, in families whose denoiser sees an embedding of it."""
        _add_missing(pipeline, "validate")
        StandardStages.add(pipeline, "encode_image")

    @staticmethod
    def add_timesteps_stage(pipeline: TakesStages) -> None:
        """Asks the scheduler for its timesteps."""
        _add_missing(pipeline, "validate")
        StandardStages.add(pipeline, "timesteps")

    @staticmethod
    def add_latents_stage(pipeline: TakesStages) -> None:
        """Draws the initial noise, and puts the picture into it."""
        _add_missing(pipeline, "validate", "timesteps")
        StandardStages.add(pipeline, "latents")

    @staticmethod
    def add_inputs_stage(pipeline: TakesStages) -> None:
        """Makes what else the denoiser is told."""
        _add_missing(pipeline, "validate", "encode_image", "timesteps", "latents")
        StandardStages.add(pipeline, "inputs")

    @staticmethod
    def add_transformer_stage(pipeline: TakesStages) -> None:
        """Denoises."""
        _add_missing(pipeline, "validate", "encode_image", "timesteps", "latents", "inputs")
        StandardStages.add(pipeline, "denoise")

    @staticmethod
    def add_vae_stage(pipeline: TakesStages) -> None:
        """Decodes the latents to frames."""
        StandardStages.add(pipeline, "decode")


def _add_missing(pipeline: TakesStages, *names: str) -> None:
    for name in names:
        if name not in pipeline.stages:
            StandardStages.add(pipeline, name)
