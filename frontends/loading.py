"""A pipeline folder in Diffusers layout: read, checked, and loaded component by component.

Nothing here unpickles, and no code that comes with the weights is run. All that can be told from configs and
file headers is told before any weight is read.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastvideo_ir as ir

from . import hub, modules, safetensors_files
from .families import Family, Preset, select_family
from .shipped import with_shipped

_LIBRARIES = ("diffusers", "transformers")
_WEIGHT_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Component:
    """A part of a pipeline, ready to be called.

    Attributes:
        value: the tokenizer, scheduler or module, or a compiled program in place of a module.
        config: its config, complete with the defaults of its class.
        dtype: dtype of its weights, for a module.
    """

    value: Any
    config: Mapping[str, Any]
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class PipelineFolder:
    """What is known of a pipeline before any weight is read.

    Attributes:
        path: the folder that holds ``model_index.json``.
        source: the folder or hub id that was asked for.
        family: which family it belongs to.
        index: the parsed ``model_index.json``.
        classes: per role, the library (diffusers or transformers) and the class in it.
    """

    path: Path
    source: str
    family: Family
    index: Mapping[str, Any]
    classes: Mapping[str, tuple[str, str]]

    @functools.cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Config per role, complete with the defaults of the component's class."""
        return {role: self._config(role) for role in self.family.roles}

    def config_value(self, key: str) -> Any:
        """The value of a config key written ``role.key``.

        Raises:
            PipelineLoadError: the component has no such key.
        """
        role, name = key.split(".", 1)
        config = self.index if role == "model_index" else self.configs[role]
        if name not in config:
            raise ir.errors.PipelineLoadError(
                f"the {role} of '{self.path}' has no {name!r} in its config",
                hint=f"the family {self.family.name} needs it",
            )
        return config[name]

    @functools.cached_property
    def preset(self) -> Preset:
        """The sampling defaults and load settings of this checkpoint, those shipped with it before those built in."""
        return with_shipped(self.family.preset_for(self.source, self._config_or_none), self.path)

    def component_class(self, role: str) -> Any:
        """The class that ``model_index.json`` names for this role.

        Raises:
            PipelineLoadError: the library, or the class in it, does not exist here.
        """
        library, name = self.classes[role]
        cls = getattr(importlib.import_module(library), name, None)
        if not (isinstance(cls, type) and hasattr(cls, "from_pretrained")):
            raise ir.errors.PipelineLoadError(
                f"the {role} of '{self.path}' is a {library}.{name}, which the installed {library} does not have",
                hint=f"upgrade {library}",
            )
        return cls

    def scheduler_overrides(self, flow_shift: float | None) -> dict[str, float] | None:
        """Config entries that replace the scheduler's own: the flow shift asked for, or else this checkpoint's best.

        Raises:
            InvalidArgumentError: a flow shift is asked for, and the scheduler has none, or it cannot be.
        """
        if flow_shift is not None:
            return self.flow_shift_override(flow_shift)
        best = self.preset.flow_shift
        has_one = any(key in self.configs["scheduler"] for key in self.family.flow_shift_keys)
        return self.flow_shift_override(best) if best is not None and has_one else None

    def flow_shift_override(self, flow_shift: float) -> dict[str, float]:
        """The scheduler's config entry for the flow shift, under the name its class has for it.

        Raises:
            InvalidArgumentError: the scheduler has none, or the shift is not positive and finite.
        """
        if isinstance(flow_shift, bool) or not isinstance(flow_shift, int | float) or not 0 < flow_shift < math.inf:
            raise ir.errors.InvalidArgumentError(
                f"flow_shift must be a positive number, got {flow_shift!r}", hint="typical values are 3.0 to 12.0"
            )
        for key in self.family.flow_shift_keys:
            if key in self.configs["scheduler"]:
                return {key: float(flow_shift)}
        raise ir.errors.InvalidArgumentError(
            f"the scheduler {self.classes['scheduler'][1]} has no flow shift", hint="leave flow_shift out"
        )

    def check_files(self, skip: Collection[str] = ()) -> None:
        """Check that all files are there and whole, without reading weights.

        Args:
            skip: roles that need no weights.

        Raises:
            PipelineLoadError: names the file that is missing, truncated or damaged.
        """
        for role in self.family.roles:
            if role in skip:
                continue
            if self._has_weights(role):
                safetensors_files.check(self._weight_files(role))
            # A tokenizer without its vocabulary loads, and maps every text to nothing.
            vocabulary = getattr(self.component_class(role), "vocab_files_names", {}).values()
            if vocabulary and not any((self.path / role / name).is_file() for name in vocabulary):
                raise ir.errors.PipelineLoadError(
                    f"'{self.path / role}' has no vocabulary: none of {', '.join(sorted(vocabulary))}",
                    hint="download the missing file",
                )

    def weight_bytes(self, role: str, dtype: torch.dtype) -> int:
        """Bytes of a role's weights in ``dtype``, by the headers of its files."""
        return safetensors_files.count_elements(self._weight_files(role)) * dtype.itemsize

    def load(self, role: str, dtype: torch.dtype, overrides: Mapping[str, Any] | None = None) -> Component:
        """Load one component on CPU.

        Args:
            role: a role of the family.
            dtype: dtype of its weights; ignored by components without weights.
            overrides: config values that replace those of a component without weights.

        Raises:
            PipelineLoadError: a file is missing or damaged, or weights and config do not fit.
        """
        cls = self.component_class(role)
        folder = self.path / role
        if not self._has_weights(role):
            value = _from_pretrained(cls, folder, **(overrides or {}))
            return Component(value, {**self.configs[role], **(overrides or {})})
        if self.classes[role][0] == "diffusers":
            value = modules.load_diffusers_model(cls, folder, self._weight_files(role), dtype)
        else:
            value = modules.load_transformers_model(cls, folder, dtype)
        return Component(value, self.configs[role], dtype)

    def _config_or_none(self, key: str) -> Any:
        role, name = key.split(".", 1)
        return self.configs[role].get(name)

    def _has_weights(self, role: str) -> bool:
        return issubclass(self.component_class(role), torch.nn.Module)

    def _weight_files(self, role: str) -> tuple[Path, ...]:
        return safetensors_files.find(self.path / role, _WEIGHT_STEMS[self.classes[role][0]])

    def _config(self, role: str) -> dict[str, Any]:
        folder = self.path / role
        if not folder.is_dir():
            raise ir.errors.PipelineLoadError(
                f"'{self.path}' has no folder {role!r}, which model_index.json lists",
                hint="download the missing component",
            )
        cls = self.component_class(role)
        # Diffusers names the file in its classes; of the others only models have a config that matters here.
        name = getattr(cls, "config_name", None) or ("config.json" if self._has_weights(role) else None)
        if name is None:
            return {}
        parameters = inspect.signature(cls.__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {**defaults, **safetensors_files.read_json(folder / name)}


def read_family(path_or_id: str | os.PathLike[str]) -> Family:
    """The family of a pipeline; reads (or downloads) nothing but ``model_index.json``.

    Raises:
        PipelineLoadError: it is no pipeline, or one without a family.
    """
    folder = hub.local_folder(path_or_id) or hub.fetch_model_index(os.fspath(path_or_id))
    return select_family(_read_model_index(folder), os.fspath(path_or_id))


def read_defaults(path_or_id: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The sampling defaults of a pipeline; reads (or downloads) no weights.

    Raises:
        PipelineLoadError: it is no pipeline, or one without a family.
    """
    local = hub.local_folder(path_or_id)
    source = os.fspath(path_or_id)
    folder = local or hub.fetch_model_index(source)
    family = select_family(_read_model_index(folder), source)
    if source in family.ids:
        return with_shipped(family.preset_for(source), folder).values
    return open_pipeline(path_or_id, weights=False).preset.values


def open_pipeline(
    path_or_id: str | os.PathLike[str], *, weights: bool = True, skip: Collection[str] = ()
) -> PipelineFolder:
    """Read and check a pipeline, a local folder or a hub id, without reading its weights.

    Args:
        path_or_id: folder in Diffusers layout, or hub id ``owner/name``, which is downloaded first.
        weights: False leaves the weights of a hub id where they are and checks configs only.
        skip: roles whose weights are not needed, and neither downloaded nor checked.

    Raises:
        PipelineLoadError: it is no pipeline, its family is not known, or a file is missing or damaged.
    """
    folder = hub.local_folder(path_or_id)
    source = os.fspath(path_or_id)
    if folder is None:
        family = read_family(path_or_id)
        folder = hub.fetch_components(source, family.roles, weights=weights, skip=skip)
    index = _read_model_index(folder)
    family = select_family(index, source)
    classes = {role: _class_of(index, role, folder) for role in family.roles}
    pipeline = PipelineFolder(folder, source, family, index, classes)
    _ = pipeline.configs, pipeline.preset  # read now, so that what is damaged is named now
    if weights:
        pipeline.check_files(skip)
    return pipeline


def _read_model_index(folder: Path) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        raise ir.errors.PipelineLoadError(
            f"'{folder}' is not a pipeline: it has no model_index.json",
            hint="give a folder in Diffusers layout, as DiffusionPipeline.save_pretrained writes it",
        )
    return safetensors_files.read_json(folder / "model_index.json")


def _class_of(index: Mapping[str, Any], role: str, folder: Path) -> tuple[str, str]:
    entry = index.get(role)
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise ir.errors.PipelineLoadError(
            f"model_index.json of '{folder}' has no {role!r}", hint="the pipeline is not complete"
        )
    if entry[0] not in _LIBRARIES:
        raise ir.errors.PipelineLoadError(
            f"the {role} of '{folder}' comes from {entry[0]!r}, and code that comes with weights is not run",
            hint=f"components are taken from {' and '.join(_LIBRARIES)} only",
        )
    return entry[0], entry[1]


def _from_pretrained(cls: Any, folder: Path, **overrides: Any) -> Any:
    try:
        return cls.from_pretrained(folder, local_files_only=True, **overrides)
    except Exception as error:  # tokenizers, for one, raise plain Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ir.errors.PipelineLoadError(
            f"'{folder}' holds no {cls.__name__} that can be loaded: {reason}",
            hint="download the component again",
        ) from error
