"""Denoisers of one's own: registered under a name, or given with their weights, in the place of a pipeline's own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir

from . import modules, safetensors_files

DEFAULT_PIPELINE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""Where text encoder, scheduler and VAE come from if nothing else is said."""


@dataclass(frozen=True)
class OwnModel:
    """A denoiser that is no part of a pipeline folder.

    Attributes:
        model_class: an ``nn.Module``; its forward takes what the pipeline's own denoiser takes, or some of it.
        weights: a safetensors file, or a folder of them; None leaves the weights as the class makes them.
        config: keyword arguments of the class.
        pipeline: folder or hub id of the pipeline whose other parts are used.
    """

    model_class: type[nn.Module]
    weights: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = DEFAULT_PIPELINE

    @staticmethod
    def of(
        model_class: Any,
        weights: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        pipeline: str | os.PathLike[str] = DEFAULT_PIPELINE,
    ) -> OwnModel:
        """Checked.

        Raises:
            InvalidArgumentError: the class is none of a module.
            PipelineLoadError: there are no such weights, or they are a pickle.
        """
        if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
            is_path = isinstance(model_class, str | os.PathLike)
            raise ir.errors.InvalidArgumentError(
                f"model_class must be a subclass of torch.nn.Module, got {model_class!r}",
                hint="VideoGenerator.from_pretrained takes a folder or an id" if is_path else "pass the class itself",
            )
        file = None if weights is None else Path(weights).expanduser()
        if file is not None and not file.exists():
            raise ir.errors.PipelineLoadError(f"the weights '{file}' do not exist", hint="check the path")
        if file is not None and not file.is_dir() and file.suffix != ".safetensors":
            raise ir.errors.PipelineLoadError(
                f"the weights '{file}' are no safetensors file, and nothing else is loaded",
                hint="save them with safetensors.torch.save_model",
            )
        return OwnModel(model_class, file, dict(config or {}), os.fspath(pipeline))

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files; empty without weights."""
        if self.weights is None:
            return ()
        if not self.weights.is_dir():
            return (self.weights,)
        found = tuple(sorted(self.weights.glob("*.safetensors")))
        if not found:
            raise ir.errors.PipelineLoadError(f"'{self.weights}' holds no safetensors file", hint="check the folder")
        return found

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The model on CPU, in eval mode, without gradients.

        Raises:
            PipelineLoadError: the class cannot be made from its config, or the weights do not fit it.
        """
        safetensors_files.check(self.files)
        try:
            model = self.model_class(**self.config)
        except Exception as error:  # a constructor may fail in any way
            raise ir.errors.PipelineLoadError(
                f"no {self.model_class.__name__} can be made: {type(error).__name__}: {error}",
                hint="give its arguments with model_config={…}",
            ) from error
        if self.files:
            modules.assign_weights(model, self.files, dtype, where=f"'{self.weights}'")
        return model.to(dtype).eval().requires_grad_(False)


_registered: dict[str, OwnModel] = {}


def register_model(
    name: str,
    model_class: type[nn.Module],
    *,
    weights: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    pipeline: str | os.PathLike[str] = DEFAULT_PIPELINE,
) -> None:
    """Give a denoiser of one's own a name, for ``VideoGenerator.from_pretrained(name)``.

    Args:
        name: letters, digits, dots, hyphens; no folder and no hub id looks like it.
        model_class: an ``nn.Module``; its forward takes what the pipeline's own denoiser takes, or some of it.
        weights: a safetensors file, or a folder of them; None leaves the weights as the class makes them.
        config: keyword arguments of the class.
        pipeline: folder or hub id of the pipeline whose other parts are used.

    Raises:
        InvalidArgumentError: the name cannot be one or is taken, or the class is none of a module.
        PipelineLoadError: there are no such weights.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ir.errors.InvalidArgumentError(
            f"{name!r} cannot be the name of a model", hint="use letters, digits, dots and hyphens, e.g. 'my-model'"
        )
    model = OwnModel.of(model_class, weights, config, pipeline)
    if _registered.get(name, model).model_class is not model_class:
        raise ir.errors.InvalidArgumentError(f"a model called {name!r} is registered already")
    _registered[name] = model


def registered_model(name: object) -> OwnModel | None:
    """The model of this name; None if there is none."""
    return _registered.get(name) if isinstance(name, str) else None
