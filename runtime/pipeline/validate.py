"""Is this request one that the pipeline can serve? Told from configs, before anything heavy."""

from __future__ import annotations

import math
from typing import Any

import fastvideo_ir as ir

from ...frontends.families import Family
from ...frontends.loading import PipelineFolder
from .geometry import LatentGeometry
from .picture import read_picture
from .stage import Stage
from .state import GenerationRequest, GenerationState

_MAX_GUIDANCE = 100.0
_MAX_FPS = 240.0
_MAX_SEED = 2**63 - 1
_SAY = "say in words what the video shows"


class ValidateStage(Stage):
    """Refuses a request that the models cannot serve as it is; nothing is rounded silently."""

    def run(self, state: GenerationState) -> None:
        validate_request(state.request, self.context.pipeline)


def validate_request(request: GenerationRequest, pipeline: PipelineFolder) -> None:
    """Check a request against the configs of a pipeline.

    Raises:
        InvalidArgumentError: names the field, what is wrong with it, and the nearest values that work.
    """
    geometry, family = LatentGeometry.of(pipeline), pipeline.family
    if not isinstance(request.prompt, str):
        raise ir.errors.InvalidArgumentError(
            f"the prompt must be one text, got {request.prompt!r}", hint=f"{_SAY}, or give a list of texts"
        )
    if not request.prompt.strip():
        raise ir.errors.InvalidArgumentError("the prompt is empty", hint=_SAY)
    _check_text("the prompt", request.prompt)
    if not isinstance(request.negative_prompt, str):
        raise ir.errors.InvalidArgumentError(
            f"negative_prompt must be text, got {request.negative_prompt!r}", hint='"" means none'
        )
    _check_text("negative_prompt", request.negative_prompt)
    _check_size("height", request.height, geometry.height_multiple)
    _check_size("width", request.width, geometry.width_multiple)
    if family.size_is_fixed_if is not None and pipeline.config_value(family.size_is_fixed_if):
        _check_fixed_size(request, pipeline, geometry)
    _check_frames(request.num_frames, geometry)
    _check_positions(request, pipeline, geometry)
    _check_integer(
        "num_inference_steps",
        request.num_inference_steps,
        family.least_steps,
        pipeline.config_value(family.train_timesteps),
    )
    _check_integer("seed", request.seed, 0, _MAX_SEED)
    most = family.defaults["max_sequence_length"]
    least = most if family.text_length_is_fixed else 1
    _check_integer("max_sequence_length", request.max_sequence_length, least, most)
    told = "6 is usual" if family.guidance == "embedded" else "1 or less turns guidance off"
    _check_number("guidance_scale", request.guidance_scale, 0.0, _MAX_GUIDANCE, told)
    _check_number("fps", request.fps, 1.0, _MAX_FPS, "it is the frames per second of the file")
    _check_further_fields(request, family)
    _check_picture(request, family)


def _check_further_fields(request: GenerationRequest, family: Family) -> None:
    """Fields that some families take: the limits of those that are numbers."""
    limits = {
        "guidance_scale_2": (_MAX_GUIDANCE, "1 or less turns guidance of the second denoiser off"),
        "true_cfg_scale": (_MAX_GUIDANCE, "1 or less turns it off"),
        "decode_timestep": (1.0, "0.05 is usual"),
        "decode_noise_scale": (1.0, "0.025 is usual"),
    }
    for name in (*limits, "use_dynamic_cfg"):
        value = getattr(request, name)
        if value is None:
            continue
        if name not in family.defaults:
            raise ir.errors.InvalidArgumentError(f"{family.name} has no {name}", hint="leave it out")
        if name in limits:
            high, hint = limits[name]
            _check_number(name, value, 0.0, high, hint)
        elif not isinstance(value, bool):
            raise ir.errors.InvalidArgumentError(f"{name} must be True or False, got {value!r}")


def _check_picture(request: GenerationRequest, family: Family) -> None:
    if request.image is None:
        if family.picture is not None and family.picture.required:
            raise ir.errors.InvalidArgumentError(
                f"{family.name} makes videos from a picture, and none was given", hint="pass image='picture.png'"
            )
        return
    if family.picture is None:
        raise ir.errors.InvalidArgumentError(
            f"{family.name} makes videos from text alone and takes no picture", hint="leave image out"
        )
    read_picture(request.image)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ir.errors.InvalidArgumentError(
            f"{name} holds half a character at position {error.start}, got {text!r}",
            hint="decode it anew from where it comes from",
        ) from error


def _check_size(name: str, value: Any, multiple: int) -> None:
    _check_integer(name, value, 1, None)
    if value % multiple:
        below, above = value // multiple * multiple, (value // multiple + 1) * multiple
        near = f"{below} or {above}" if below else str(above)
        raise ir.errors.InvalidArgumentError(
            f"{name} must be a multiple of {multiple} pixels for this VAE and transformer, got {value}",
            hint=f"the nearest values are {near}" if below else f"the nearest value is {near}",
        )


def _check_fixed_size(request: GenerationRequest, pipeline: PipelineFolder, geometry: LatentGeometry) -> None:
    height, width = (
        pipeline.config_value(f"transformer.{key}") * geometry.spatial_factor
        for key in ("sample_height", "sample_width")
    )
    if (request.height, request.width) != (height, width):
        raise ir.errors.InvalidArgumentError(
            f"this transformer makes videos of {width} × {height} pixels alone, asked were "
            f"{request.width} × {request.height}",
            hint=f"use width={width}, height={height}",
        )


def _check_positions(request: GenerationRequest, pipeline: PipelineFolder, geometry: LatentGeometry) -> None:
    """Rotary embeddings are tables with so many rows."""
    key = pipeline.family.most_positions
    most = pipeline.configs["transformer"].get(key) if key else None
    if most is None:
        return
    for name, value, tokens, largest in (
        ("height", request.height, request.height // geometry.height_multiple, most * geometry.height_multiple),
        ("width", request.width, request.width // geometry.width_multiple, most * geometry.width_multiple),
        (
            "num_frames",
            request.num_frames,
            geometry.latent_frames(request.num_frames) // geometry.patch_size[0],
            (most * geometry.patch_size[0] - 1) * geometry.temporal_factor + 1,
        ),
    ):
        if tokens > most:
            raise ir.errors.InvalidArgumentError(
                f"{name}={value} is more than this transformer has positions for, which is {most} tokens along each "
                f"dimension",
                hint=f"{name} may be {largest} at most",
            )


def _check_frames(value: Any, geometry: LatentGeometry) -> None:
    _check_integer("num_frames", value, 1, None)
    if geometry.takes_frames(value):
        return
    period = geometry.temporal_factor * geometry.patch_size[0]
    near = [n for n in range(max(1, value - period), value + period + 1) if geometry.takes_frames(n)]
    values = " or ".join(str(n) for n in near)
    raise ir.errors.InvalidArgumentError(
        f"num_frames must be 1 more than a multiple of {geometry.temporal_factor} for this VAE, got {value}",
        hint=f"the nearest values are {values}",
    )


def _check_integer(name: str, value: Any, low: int, high: int | None) -> None:
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if low == high:
        wanted = str(low)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        raise ir.errors.InvalidArgumentError(f"{name} must be {wanted}, got {value!r}")


def _check_number(name: str, value: Any, low: float, high: float, hint: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise ir.errors.InvalidArgumentError(
            f"{name} must be a number from {low:g} to {high:g}, got {value!r}", hint=hint
        )
