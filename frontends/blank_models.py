"""Models without weights: built from their configs on the meta device, where nothing is allocated, or at random."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir

from . import hub, safetensors_files

DENOISER = "transformer"


def build_blank(source: str, config: dict[str, Any], dtype: torch.dtype, *, materialize: bool = False) -> nn.Module:
    """A model in eval mode.

    Args:
        source: a folder with a ``config.json`` of Diffusers or Transformers, that file, a pipeline folder or hub id, of
            which its denoiser is taken; or ``package.module:Class``.
        config: constructor arguments of such a class; for other sources, entries that replace those of the file.
        dtype: of the weights, but for modules that the class keeps in float32.
        materialize: random weights on the CPU in place of none on meta.

    Raises:
        PipelineLoadError: there is no such config or class, or no model can be built from it.
    """
    device = torch.device("cpu" if materialize else "meta")
    make = _named_class(source) if _is_class(source) else _configured(source)
    try:
        with device:
            model: nn.Module = make(config)
    except Exception as error:  # a constructor may fail in any way
        reason = (str(error).splitlines() or [""])[0]
        raise ir.errors.PipelineLoadError(
            f"no model can be built from {source!r}: {type(error).__name__}: {reason}",
            hint="look at its config.json, or at the arguments in --config",
        ) from error
    if not isinstance(model, nn.Module):
        raise ir.errors.PipelineLoadError(f"{source!r} makes a {type(model).__name__}, which is no torch.nn.Module")
    return _cast(model, dtype).eval().requires_grad_(False)


def _is_class(source: str) -> bool:
    module, colon, name = source.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _named_class(source: str) -> Any:
    module, _, name = source.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ir.errors.PipelineLoadError(
            f"{source!r} cannot be imported: {error}", hint="run where `python -c 'import …'` finds the module"
        ) from error
    return lambda config: cls(**config)


def _configured(source: str) -> Any:
    path = _config_file(source)
    values = safetensors_files.read_json(path)
    if "_class_name" in values:
        library, name = "diffusers", values["_class_name"]
    elif values.get("architectures"):
        library, name = "transformers", values["architectures"][0]
    else:
        raise ir.errors.PipelineLoadError(
            f"'{path}' names no class: it has neither _class_name nor architectures",
            hint="name the class as package.module:Class, and its arguments with --config",
        )
    cls = getattr(importlib.import_module(library), str(name), None)
    if cls is None:
        raise ir.errors.PipelineLoadError(
            f"'{path}' is of a {library}.{name}, which the installed {library} does not have",
            hint=f"upgrade {library}, or name the class as package.module:Class",
        )
    if library == "diffusers":
        return lambda config: cls.from_config({**values, **config})
    return lambda config: cls(cls.config_class.from_dict({**values, **config}))


def _config_file(source: str) -> Path:
    """The ``config.json`` that is meant."""
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    folder = hub.local_folder(source) or hub.fetch_components(source, [DENOISER], weights=False)
    for candidate in (folder / "config.json", folder / DENOISER / "config.json"):
        if candidate.is_file():
            return candidate
    raise ir.errors.PipelineLoadError(
        f"'{folder}' has neither a config.json nor a {DENOISER}/config.json",
        hint="give the folder of a model or of a pipeline, or package.module:Class",
    )


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights in ``dtype``, as they are loaded."""
    keep = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    stored = set(model.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored and tensor.is_floating_point() and not keep.intersection(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return model
