"""The sampling parameters of a generation, as the user writes them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

import fastvideo_ir as ir

from .config_files import read_mapping, write_mapping
from .frontends import loading
from .runtime.pipeline import GenerationRequest
from .runtime.pipeline.picture import PictureInput


@dataclass(init=False)
class SamplingParam:
    """Parameters of one generation; None means the best default of the model.

    Args:
        model_path_or_id: a pipeline folder or hub id, whose defaults fill what ``overrides`` leaves open.
        overrides: any of the attributes below.

    Attributes:
        prompt: what to show.
        negative_prompt: what to avoid.
        height, width: size in pixels.
        num_frames: number of frames.
        fps: frames per second of the file.
        num_inference_steps: number of denoising steps.
        guidance_scale: classifier-free guidance; 1 or less turns it off.
        seed: of the initial noise; None draws one, which the result reports.
        max_sequence_length: text tokens.
        image: the picture that the video starts from: a path, a PIL image or a tensor ``(3, height, width)``.
        guidance_scale_2: guidance of the second denoiser, in families that have one.
        true_cfg_scale: classifier-free guidance of a denoiser that is told ``guidance_scale``; 1 or less turns it off.
        use_dynamic_cfg: whether guidance grows from step to step.
        decode_timestep, decode_noise_scale: noise that the decoder is told of, and that is mixed into its input.

    Raises:
        UnknownNameError: there is no such field; names the nearest.
        PipelineLoadError: ``model_path_or_id`` is no pipeline, or one of no known family.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    max_sequence_length: int | None = None
    image: PictureInput | None = None
    guidance_scale_2: float | None = None
    true_cfg_scale: float | None = None
    use_dynamic_cfg: bool | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None

    def __init__(self, model_path_or_id: str | os.PathLike[str] | None = None, **overrides: Any) -> None:
        defaults = loading.read_defaults(model_path_or_id) if model_path_or_id is not None else {}
        for name, value in {**defaults, **_given(overrides)}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        names = [field.name for field in fields(self)]
        if name not in names:
            raise ir.errors.UnknownNameError("sampling parameter", name, names)
        super().__setattr__(name, value)

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        return _given({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(
        cls, file: str | os.PathLike[str], model_path_or_id: str | os.PathLike[str] | None = None, **overrides: Any
    ) -> Self:
        """From a YAML or JSON file: it goes before the model's defaults, and ``overrides`` before it.

        Raises:
            InvalidArgumentError: the file cannot be read, or is no mapping.
            UnknownNameError: an entry is no sampling parameter; names the nearest.
        """
        entries = {str(name): value for name, value in read_mapping(file).items()}
        return cls(model_path_or_id, **{**entries, **_given(overrides)})

    def dump(self, file: str | os.PathLike[str]) -> None:
        """Write all that is given as YAML or JSON, for :meth:`load`; a file that is there is written over.

        Raises:
            InvalidArgumentError: the file cannot be written, or the picture is none that a file can name.
        """
        given = self.given()
        if isinstance(given.get("image"), os.PathLike):
            given["image"] = os.fspath(given["image"])
        if not isinstance(given.get("image", ""), str):
            raise ir.errors.InvalidArgumentError(
                f"a {type(given['image']).__name__} cannot be written to a file", hint="give the picture as a path"
            )
        write_mapping(file, given)


def resolve_request(
    defaults: Mapping[str, Any], sampling_param: SamplingParam | None, overrides: Mapping[str, Any]
) -> GenerationRequest:
    """Decide every field: keyword before ``sampling_param`` before the model's default.

    Raises:
        UnknownNameError: there is no such field.
        InvalidArgumentError: there is no prompt, or ``sampling_param`` is something else.
    """
    if sampling_param is not None and not isinstance(sampling_param, SamplingParam):
        raise ir.errors.InvalidArgumentError(
            f"sampling_param must be a SamplingParam, got a {type(sampling_param).__name__}",
            hint="make one with SamplingParam(num_frames=…), or pass its fields as keywords",
        )
    given = {**(sampling_param.given() if sampling_param else {}), **SamplingParam(**overrides).given()}
    if "prompt" not in given:
        raise ir.errors.InvalidArgumentError("no prompt was given", hint="say in words what the video shows")
    given = {name: int(value) if isinstance(value, np.integer) else value for name, value in given.items()}
    given.setdefault("seed", secrets.randbelow(2**31))
    return GenerationRequest(**{**defaults, **given})


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
