"""The file of a LoRA: found, read without unpickling, and brought to the names that the model's parameters have."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir

from . import hub, safetensors_files

_PEFT_NAME = "adapter_model.safetensors"
_USUAL_NAMES = ("pytorch_lora_weights.safetensors", _PEFT_NAME)
_ADAPTER_CONFIG = "adapter_config.json"
_HEADER_KEY = "lora_adapter_metadata"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class LoraFile:
    """What a file holds.

    Attributes:
        path: the file.
        name: what a user would call it.
        tensors: by key, as in the file, floating point ones in float32.
        settings: PEFT's settings for it: ``r``, ``lora_alpha``, ``alpha_pattern`` and so on, with the component's name
            before each if it came in the file's header. Empty if there are none.
    """

    path: Path
    name: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def read_lora_file(source: str | os.PathLike[str], weight_name: str | None = None) -> LoraFile:
    """Read a LoRA on CPU.

    Args:
        source: a safetensors file, a folder with one, or a hub id ``owner/name``, which is downloaded first.
        weight_name: the file in the folder or repository, where there are several.

    Raises:
        PipelineLoadError: the file is missing, truncated, damaged or a pickle; names it.
    """
    path = _find(source, weight_name)
    tensors: dict[str, Tensor] = {}
    with safetensors_files.open_file(path) as handle:
        header = handle.metadata() or {}
        for key in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            tensor = handle.get_tensor(key)
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    not_finite = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if not_finite:
        raise ir.errors.PipelineLoadError(
            f"'{path}' is damaged: {not_finite[0]!r} has values that are not finite", hint="download the file again"
        )
    if _HEADER_KEY in header:
        settings = _settings_in(header[_HEADER_KEY], path)
    elif path.name == _PEFT_NAME and (path.parent / _ADAPTER_CONFIG).is_file():
        settings = safetensors_files.read_json(path.parent / _ADAPTER_CONFIG)
    else:
        settings = {}
    return LoraFile(path, _name(source, path), tensors, settings)


def to_model_names(file: LoraFile, pipeline_class: str) -> dict[str, Tensor]:
    """The tensors under Diffusers' names, converted by the pipeline's class where it can convert other formats.

    What the conversion leaves out although it would change something keeps its own name, and so matches nothing.

    Raises:
        InvalidArgumentError: the file is in a format that the class does not know.
    """
    import diffusers

    convert = getattr(getattr(diffusers, pipeline_class), "lora_state_dict", None)
    if convert is None:
        return dict(file.tensors)
    try:
        converted: dict[str, Tensor] = dict(convert(dict(file.tensors)))
    except Exception as error:  # conversions fail in any way on keys that they were not made for
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ir.errors.InvalidArgumentError(
            f"'{file.path}' is no LoRA that {pipeline_class} can convert: {type(error).__name__}: {reason}",
            hint="it may be for another model; its keys look like " + ", ".join(list(file.tensors)[:2]),
        ) from error
    kept = {tensor.data_ptr() for tensor in converted.values()}
    for key, tensor in file.tensors.items():
        if key.endswith((".diff", ".diff_b")) and tensor.any() and tensor.data_ptr() not in kept:
            converted[key] = tensor
    return converted


def _settings_in(text: str, path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ir.errors.PipelineLoadError(
            f"'{path}' is damaged: {_HEADER_KEY} in its header is no JSON object", hint="download the file again"
        )
    return settings


def _name(source: str | os.PathLike[str], path: Path) -> str:
    """The file's name without its ending, or that of its folder or repository where all files have the same name."""
    if path.name not in _USUAL_NAMES:
        return path.stem
    given = Path(source).expanduser().absolute()
    return (given.parent if given.is_file() else given).name


def _find(source: str | os.PathLike[str], weight_name: str | None) -> Path:
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir():
        path = _in_folder(path, weight_name)
    if path.suffix in _PICKLES:
        raise ir.errors.PipelineLoadError(
            f"'{path}' is a pickle, and pickles are never loaded",
            hint="convert it to safetensors where it can be trusted",
        )
    if path.is_file():
        return path
    if path.suffix == ".safetensors":
        raise ir.errors.PipelineLoadError(f"the LoRA '{path}' does not exist", hint="check the path")
    if not hub.is_id(text):
        raise ir.errors.PipelineLoadError(
            f"{text!r} is neither a file or folder on this machine nor a hub id",
            hint="give a safetensors file, or an id of the form owner/name",
        )
    return hub.fetch_adapter(text, weight_name, _USUAL_NAMES)


def _in_folder(folder: Path, weight_name: str | None) -> Path:
    """The file in ``folder`` that is meant; it need not exist if it was named."""
    files = sorted(folder.glob("*.safetensors"))
    usual = [file for file in files if file.name in _USUAL_NAMES]
    if weight_name is not None:
        return folder / weight_name
    if usual or len(files) == 1:
        return (usual or files)[0]
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise ir.errors.PipelineLoadError(
            f"'{folder}' has {len(files)} safetensors files: {names}", hint="name one with weight_name="
        )
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLES]
    if pickles:
        return pickles[0]
    raise ir.errors.PipelineLoadError(f"'{folder}' has no safetensors file", hint="check the path")
