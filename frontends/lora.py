"""Low-rank adapters (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021), matched to a model.

An adapter changes a weight by ``alpha / r * B @ A``, with ``A`` of shape (r, in) and ``B`` of shape (out, r). Without
an ``alpha``, beside the layer or in PEFT's settings, the factor is 1. Files may also hold whole differences of weights
and biases.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir

from .blank_models import DENOISER
from .loading import PipelineFolder
from .lora_files import LoraFile, read_lora_file, to_model_names

Shapes = Mapping[str, Mapping[str, torch.Size]]
"""Shape of every parameter, by component and name."""

_WRAPPERS = ("base_model.model.", "diffusion_model.")  # of PEFT, and of tools that write a model's own names
_DOWN = r"lora_A|lora_down|lora\.down|lora_linear_layer\.down"
_UP = r"lora_B|lora_up|lora\.up|lora_linear_layer\.up"
_KEY = re.compile(
    rf"(?P<layer>.+)\.(?:(?P<down>{_DOWN})(?:\.default)?\.weight|(?P<up>{_UP})(?:\.default)?\.weight"
    rf"|(?P<up_bias>{_UP})(?:\.default)?\.bias|(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_b>diff_b))"
)
_OTHER_KINDS = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "lokr_w1": "LoKr", "hada_w1": "LoHa"}


class PartialLoraWarning(UserWarning):
    """Some layers of a LoRA have no place in the model and are left out."""


@dataclass(frozen=True)
class Delta:
    """What one adapter adds to one parameter: ``factor * up @ down``, or ``factor * up`` where there is no ``down``."""

    up: Tensor
    down: Tensor | None = None
    factor: float = 1.0

    def fits(self, shape: torch.Size) -> bool:
        """Whether it can be added to a parameter of this shape."""
        if self.down is None:
            return self.up.shape == shape
        if min(len(shape), self.up.dim(), self.down.dim()) < 2:
            return False
        rank = self.down.shape[0]
        return (
            rank > 0
            and self.up.shape[0] == shape[0]
            and self.up.numel() == shape[0] * rank
            and self.down.numel() == rank * math.prod(shape[1:])
        )

    def added_to(self, total: Tensor, scale: float) -> Tensor:
        """``total`` plus ``scale`` times this, in the dtype and on the device of ``total``."""
        up = self.up.to(total)
        if self.down is None:
            return total.add(up, alpha=scale * self.factor)
        product = up.flatten(1) @ self.down.to(total).flatten(1)
        return total.add(product.view(total.shape), alpha=scale * self.factor)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter that it is for, as far as it can be told."""
        return tuple(self.up.shape) if self.down is None else (*self.up.shape[:1], *self.down.shape[1:])


@dataclass(frozen=True)
class Lora:
    """An adapter that fits a pipeline.

    Attributes:
        name: what a user would call it.
        deltas: by component and name of the parameter.
    """

    name: str
    deltas: Mapping[str, Mapping[str, list[Delta]]]


def read_lora(
    source: str | os.PathLike[str],
    pipeline: PipelineFolder,
    shapes: Shapes,
    *,
    component: str | None = None,
    weight_name: str | None = None,
    strict: bool = True,
) -> Lora:
    """Read a LoRA and match it to a pipeline's components; changes nothing.

    Args:
        source: a safetensors file, a folder with one, or a hub id.
        pipeline: tells the format and the names of components.
        shapes: of the parameters that may be changed.
        component: where layers go that are for the pipeline's first component or name none.
        weight_name: the file in the folder or repository, where there are several.
        strict: whether every layer must have its place; False leaves out the others with a warning.

    Raises:
        PipelineLoadError: the file is missing, damaged or a pickle; names it.
        InvalidArgumentError: it is for another model, in an unknown format, or of a kind that cannot be added up.
        UnknownNameError: there is no such component.
    """
    if component is not None and component not in shapes:
        raise ir.errors.UnknownNameError("component for a LoRA", component, shapes)
    file = read_lora_file(source, weight_name)
    for key in file.tensors:
        kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in key), None)
        if kind is not None:
            raise ir.errors.InvalidArgumentError(
                f"'{file.path}' is a {kind}, which cannot be added to the weights", hint="only LoRA is supported"
            )
    names = to_model_names(file, pipeline.family.pipeline_class)
    deltas: dict[str, dict[str, list[Delta]]] = {role: {} for role in shapes}
    unknown, misfits, matched = [], [], 0
    for (role, layer), parts in _layers(names, pipeline.family.roles, component or DENOISER, file).items():
        known = shapes.get(role, {})
        made = _deltas(layer, parts, known, _factor(role, layer, parts, file.settings))
        if not made or not made.keys() <= known.keys():
            unknown.append(f"{role}.{layer}")
            continue
        wrong = [name for name, delta in made.items() if not delta.fits(known[name])]
        if wrong:
            shape = tuple(known[wrong[0]])
            misfits.append(f"{role}.{wrong[0]} is {shape} and not {made[wrong[0]].shape}")
            continue
        matched += 1
        for name, delta in made.items():
            deltas[role].setdefault(name, []).append(delta)
    _refuse_misfits(file, pipeline, matched, unknown, misfits, strict)
    return Lora(file.name, deltas)


def _layers(
    names: Mapping[str, Tensor], roles: tuple[str, ...], component: str, file: LoraFile
) -> dict[tuple[str, str], dict[str, Tensor]]:
    """What there is for each layer, by component and path in it; a key of no known form is a layer without parts."""
    result: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in names.items():
        bare = key
        for wrapper in _WRAPPERS:
            bare = bare.removeprefix(wrapper)
        head, _, rest = bare.partition(".")
        role, path = (head, rest) if head in roles else (DENOISER, bare)
        role = component if role == DENOISER else role
        match = _KEY.fullmatch(path)
        if match is None:
            result[role, path] = {}
            continue
        part = next(part for part, text in match.groupdict().items() if text is not None and part != "layer")
        parts = result.setdefault((role, match["layer"]), {})
        if part in parts:
            raise ir.errors.InvalidArgumentError(
                f"'{file.path}' has two values for {role}.{path}, one of them as {key!r}",
                hint="leave component= out for a file that names its components",
            )
        parts[part] = tensor
    return result


def _deltas(
    layer: str, parts: Mapping[str, Tensor], known: Mapping[str, torch.Size], factor: float
) -> dict[str, Delta]:
    """What a layer's parts add, by parameter; empty if half of a pair is missing."""
    made = {}
    if ("down" in parts) != ("up" in parts):
        return {}
    if "down" in parts:
        made[f"{layer}.weight"] = Delta(parts["up"], parts["down"], factor)
    if "up_bias" in parts:
        made[f"{layer}.bias"] = Delta(parts["up_bias"], factor=factor)
    if "diff" in parts:  # of a weight, or of a parameter that has this path itself
        made[layer if layer in known else f"{layer}.weight"] = Delta(parts["diff"])
    if "diff_b" in parts:
        made[f"{layer}.bias"] = Delta(parts["diff_b"])
    return made


def _factor(role: str, layer: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> float:
    """``alpha / r``: of the layer's own alpha, or of PEFT's settings, which may have a pattern of layers."""
    if "down" not in parts or not (rank := max((0, *parts["down"].shape[:1]))):
        return 1.0
    if "alpha" in parts:
        return float(_number(parts["alpha"].flatten().tolist(), layer)) / float(rank)
    for prefix in (f"{role}.", f"{DENOISER}."):
        of_role = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
        settings = of_role or settings
    alpha = settings.get("lora_alpha")
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):  # as PEFT matches it
            alpha = value
            break
    if alpha is None:
        return 1.0
    return _number([alpha], layer) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _number(values: list[Any], layer: str) -> float:
    """The one number. Raises InvalidArgumentError."""
    if len(values) != 1 or not isinstance(values[0], int | float) or not math.isfinite(values[0]):
        raise ir.errors.InvalidArgumentError(
            f"the LoRA has no number for the alpha of {layer!r}: {values}", hint="the file is damaged"
        )
    return float(values[0])


def _refuse_misfits(
    file: LoraFile, pipeline: PipelineFolder, matched: int, unknown: list[str], misfits: list[str], strict: bool
) -> None:
    if not unknown and not misfits and matched:
        return
    total = matched + len(unknown) + len(misfits)
    reasons = [
        *([f"{len(misfits)} have another shape: {_some(misfits)}"] if misfits else []),
        *([f"{len(unknown)} have no place: {_some(unknown)}"] if unknown else []),
    ]
    text = f"{matched} of {total} layers of '{file.path}' fit the {pipeline.family.name} model; {'; '.join(reasons)}"
    if not matched:
        raise ir.errors.InvalidArgumentError(text, hint="the LoRA is for another model")
    if strict:
        raise ir.errors.InvalidArgumentError(text, hint="strict=False loads what fits")
    warnings.warn(text, PartialLoraWarning, stacklevel=4)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
