"""Diffusers' pipeline objects around our components: their helpers encode prompts and draw latents.

The loop over the timesteps, guidance and decoding are the stages' own; what only prepares tensors is diffusers', so
that a family has the numbers of its reference by construction.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import fastvideo_ir as ir

from ...frontends.loading import Component, PipelineFolder


def build_reference(class_name: str, pipeline: PipelineFolder, components: Mapping[str, Component]) -> Any:
    """An object of this class in diffusers; components that the family does not load are None.

    Raises:
        PipelineLoadError: the installed diffusers has no such class.
    """
    cls = getattr(importlib.import_module("diffusers"), class_name, None)
    if cls is None:
        raise ir.errors.PipelineLoadError(
            f"the installed diffusers has no {class_name}, which {pipeline.family.name} needs",
            hint="upgrade diffusers",
        )
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in components:
            arguments[name] = components[name].value
        elif name in pipeline.index and not isinstance(pipeline.index[name], list):
            arguments[name] = pipeline.index[name]
        elif name != "self" and parameter.default is parameter.empty:
            arguments[name] = None
    return cls(**arguments)


def call_known(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call with those of the arguments that the function has."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})
