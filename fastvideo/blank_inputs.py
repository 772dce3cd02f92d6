"""Inputs without values, from what is said of them or from a pipeline's configs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from .frontends.loading import PipelineFolder, open_pipeline
from .runtime.pipeline.geometry import LatentGeometry

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
        *(torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64),
    )
}
_SHAPE = re.compile(r"([A-Za-z_]\w*)=(\d*(?:,\d+)*)(?::(\w+))?")
Spec = tuple[tuple[int, ...], torch.dtype]


def make_inputs(
    model: nn.Module,
    specified: Mapping[str, Any],
    shapes: Sequence[str],
    arguments: Sequence[str],
    dtype: torch.dtype,
    device: str,
) -> dict[str, Any]:
    """Keyword arguments of one call.

    Args:
        model: whose forward takes them.
        specified: shapes and dtypes, or plain values, by name; what follows goes before them.
        shapes: ``name=1,16,21`` or ``name=1:int64``.
        arguments: ``name=JSON``.
        dtype: of shapes without one.
        device: ``meta``, or ``cpu`` for random values.

    Raises:
        InvalidArgumentError: one cannot be read.
        UnknownNameError: the model has no such argument, or there is no such dtype; tells the nearest.
    """
    wanted = dict(specified)
    wanted.update(_read_shape(text, dtype) for text in shapes)
    wanted.update(_read_argument(text) for text in arguments)
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in wanted:
        if name not in parameters and not takes_any:
            raise UnknownNameError(f"argument of {type(model).__name__}.forward", name, parameters)
    missing = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [name for name in missing if name not in wanted]
    if missing:
        raise InvalidArgumentError(
            f"{type(model).__name__} needs {', '.join(missing)} as well",
            hint=f"say e.g. --shape {missing[0]}=1,77,4096",
        )
    if "return_dict" in parameters:
        wanted.setdefault("return_dict", False)
    random = torch.Generator().manual_seed(0)
    return {
        name: _tensor(value[0], value[1], device, random) if isinstance(value, tuple) else value
        for name, value in wanted.items()
    }


def open_unweighted(source: str, given: Mapping[str, int]) -> PipelineFolder:
    """The pipeline for which inputs are to be made; its weights need not be there.

    Raises:
        InvalidArgumentError: the source is no pipeline, and nothing says what its inputs are.
    """
    try:
        return open_pipeline(source, weights=False)
    except Exception as error:
        if given:
            raise
        raise InvalidArgumentError(
            "no inputs were given", hint="say e.g. --shape hidden_states=1,16,21,60,104, once per tensor"
        ) from error


def denoiser_inputs(
    pipeline: PipelineFolder, given: Mapping[str, int], dtype: torch.dtype, batch: int = 1
) -> dict[str, Spec]:
    """What the denoiser of a pipeline gets for a video; other sizes are the family's defaults.

    Args:
        pipeline: of a known family.
        given: height, width, num_frames.
        dtype: of latents and text.
        batch: samples: for each of several videos one, or two with classifier-free guidance.

    Raises:
        InvalidArgumentError: it takes more than latents, text and time, or the size cannot be.
    """
    family = pipeline.family
    widths = [pipeline.configs["text_encoder"].get(key) for key in ("d_model", "hidden_size")]
    width = next((width for width in widths if isinstance(width, int)), None)
    needs_picture = family.picture is not None and family.picture.required
    if family.inputs or len(family.text) != 1 or needs_picture or family.timestep_per_token or width is None:
        raise InvalidArgumentError(
            f"the inputs of {family.name} do not follow from the size of a video alone",
            hint="give them with --shape and --arg; see the forward of its transformer",
        )
    values = {**pipeline.preset.values, **given}
    geometry = LatentGeometry.of(pipeline)
    if not geometry.takes_frames(values["num_frames"]):
        raise InvalidArgumentError(f"num_frames={values['num_frames']} does not fit the VAE and the patches")
    for name, multiple in (("height", geometry.height_multiple), ("width", geometry.width_multiple)):
        if values[name] < 1 or values[name] % multiple:
            raise InvalidArgumentError(f"{name} must be a multiple of {multiple} pixels, got {values[name]}")
    spatial = (values["height"] // geometry.spatial_factor, values["width"] // geometry.spatial_factor)
    middle = [pipeline.config_value(family.latent_channels), geometry.latent_frames(values["num_frames"])]
    latents = (batch, *(middle if family.channel_dim == 1 else reversed(middle)), *spatial)
    return {
        family.latents_argument: (latents, dtype),
        family.timestep_argument: ((batch,), torch.int64),
        family.text[0]: ((batch, values["max_sequence_length"], width), dtype),
    }


def _read_shape(text: str, dtype: torch.dtype) -> tuple[str, Spec]:
    match = _SHAPE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise InvalidArgumentError(f"cannot read --shape {text!r}", hint="write name=1,16,21 or name=1:int64")
    name, sizes, kind = match.groups()
    if kind is not None and kind not in _DTYPES:
        raise UnknownNameError("dtype", kind, _DTYPES)
    return name, (tuple(int(size) for size in sizes.split(",") if size), _DTYPES[kind] if kind else dtype)


def _read_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError("there is no '='")
        return name.strip(), json.loads(value)
    except ValueError as error:
        raise InvalidArgumentError(
            f"cannot read --arg {text!r}: {error}", hint='write name=JSON, such as return_dict=false or mode="fast"'
        ) from error


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str, random: torch.Generator) -> Tensor:
    if device == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=random, dtype=torch.float32).to(dtype)
    return torch.ones(shape, dtype=dtype)
