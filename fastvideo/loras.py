"""LoRA of a loaded pipeline, merged into the weights of its compiled models; nothing is captured or planned anew.

With base weight ``W`` and loaded adapters i, a layer computes with ``W + sum_i scale_i * alpha_i / r_i * B_i @ A_i``,
summed in float32 and rounded once. Ranks get their pieces of the sum as they get those of any weight, so that the
division of the work does not matter. The bits of ``W`` are kept, and are back as soon as no adapter is left.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

import fastvideo_ir as ir

from .compiler import CompiledModel
from .frontends.blank_models import build_blank
from .frontends.loading import PipelineFolder, open_pipeline
from .frontends.lora import Lora, Shapes, read_lora
from .runtime.pipeline.own_denoiser import OwnDenoiser
from .runtime.pipeline.stage import StageContext


class LoraStack:
    """The adapters that are merged into a pipeline's models at a time.

    Args:
        pipeline: tells the format of its adapters.
        models: compiled, by component.
    """

    def __init__(self, pipeline: PipelineFolder, models: Mapping[str, CompiledModel]) -> None:
        self.pipeline = pipeline
        self._models = models
        self._loaded: dict[str, Lora] = {}
        self._base: dict[nn.Parameter, Tensor] = {}
        self.scales: dict[str, float] = {}

    @classmethod
    def of(cls, context: StageContext) -> Self:
        """For the compiled components of a pipeline."""
        values = {role: component.value for role, component in context.components.items()}
        models = {role: value.model if isinstance(value, OwnDenoiser) else value for role, value in values.items()}
        return cls(context.pipeline, {role: m for role, m in models.items() if isinstance(m, CompiledModel)})

    @property
    def shapes(self) -> Shapes:
        """Of all parameters that an adapter may change."""
        return {role: _shapes(model) for role, model in self._models.items()}

    def add(self, name: str, lora: Lora, scale: float) -> None:
        """Merge one more adapter. Raises InvalidArgumentError if the name is taken or the scale is none."""
        self.check_new(name)
        self._change({**self._loaded, name: lora}, {**self.scales, name: checked_scale(scale)}, lora)

    def check_new(self, name: str) -> None:
        """Raises InvalidArgumentError if the name cannot be that of another adapter."""
        if not isinstance(name, str) or not name:
            raise ir.errors.InvalidArgumentError(f"the name of a LoRA must be a text, got {name!r}")
        if name in self._loaded:
            raise ir.errors.InvalidArgumentError(
                f"a LoRA named {name!r} is loaded already", hint="unload it first, or give another one with name="
            )

    def set_scale(self, name: str, scale: float) -> None:
        """Merge an adapter with another scale. Raises UnknownNameError, InvalidArgumentError."""
        lora = self._known(name)
        self._change(self._loaded, {**self.scales, name: checked_scale(scale)}, lora)

    def remove(self, name: str) -> None:
        """Take an adapter out again. Raises UnknownNameError."""
        lora = self._known(name)
        rest = {other: kept for other, kept in self._loaded.items() if other != name}
        self._change(rest, {other: self.scales[other] for other in rest}, lora)

    def _known(self, name: str) -> Lora:
        if name not in self._loaded:
            raise ir.errors.UnknownNameError("LoRA", str(name), self._loaded)
        return self._loaded[name]

    def _change(self, loaded: dict[str, Lora], scales: dict[str, float], changed: Lora) -> None:
        """Go over to other adapters, which differ from those of now by ``changed``; back again if that fails."""
        before = self._loaded, self.scales
        self._loaded, self.scales = loaded, scales
        try:
            self._merge(changed)
        except BaseException:
            self._loaded, self.scales = before
            self._merge(changed)
            raise

    @torch.no_grad()
    def _merge(self, changed: Lora) -> None:
        """Write every weight that ``changed`` has a part in anew, and bring it to the ranks."""
        for role, model in self._models.items():
            params = dict(model.named_parameters(remove_duplicate=False))
            for param in {params[name]: None for name in changed.deltas[role]}:
                names = [name for name, other in params.items() if other is param]
                deltas = [
                    (self.scales[adapter], delta)
                    for adapter, lora in self._loaded.items()
                    for name in names
                    for delta in lora.deltas[role].get(name, ())
                    if self.scales[adapter] != 0
                ]
                if not deltas:
                    if param in self._base:
                        _write(param, self._base.pop(param))
                    continue
                base = self._base.setdefault(param, param.detach().to("cpu"))
                total = base.to(param.device, torch.promote_types(base.dtype, torch.float32))
                for scale, delta in deltas:
                    total = delta.added_to(total, scale)
                _write(param, total.to(base.dtype))
            if changed.deltas[role]:
                model.update_weights()


def _write(param: nn.Parameter, value: Tensor) -> None:
    if param.device.type == "cpu":  # it may be the map of a file, which ranks share as long as nobody writes to it
        param.data = value
    else:  # in place, so that there are never two of them in a GPU's memory
        param.copy_(value)


class LoraMethods(ABC):
    """What a generator offers for LoRA."""

    _loras: LoraStack
    _lock: threading.Lock

    @abstractmethod
    def _refuse_closed(self) -> None: ...

    def load_lora(
        self,
        source: str | os.PathLike[str],
        name: str | None = None,
        scale: float = 1.0,
        *,
        component: str | None = None,
        weight_name: str | None = None,
        strict: bool = True,
    ) -> str:
        """Merge a LoRA into the weights, on top of those that are loaded. Nothing is compiled anew.

        Args:
            source: a safetensors file, a folder with one, or a hub id; in the format of Diffusers or PEFT, or in an
                original one that the pipeline's class in Diffusers can convert.
            name: what to call it; None takes the file's name.
            scale: its strength.
            component: the model that it is for, where there are several and the file does not tell; the first one if
                left out.
            weight_name: the file in the folder or repository, where there are several.
            strict: whether every layer must have its place; False leaves out the others with a warning.

        Returns:
            The name.

        Raises:
            PipelineLoadError: the file is missing, damaged or a pickle; names it.
            InvalidArgumentError: it is for another model, its name is taken, or the scale is no finite number.
            UnknownNameError: there is no such component.
        """
        checked_scale(scale)
        with self._lock:
            self._refuse_closed()
            if name is not None:
                self._loras.check_new(name)
            lora = read_lora(
                source,
                self._loras.pipeline,
                self._loras.shapes,
                component=component,
                weight_name=weight_name,
                strict=strict,
            )
            self._loras.add(lora.name if name is None else name, lora, scale)
            return lora.name if name is None else name

    def set_lora_scale(self, name: str, scale: float) -> None:
        """Change the strength of a loaded LoRA; 0 leaves it out.

        Raises:
            UnknownNameError: no LoRA of this name is loaded.
            InvalidArgumentError: the scale is no finite number.
        """
        with self._lock:
            self._refuse_closed()
            self._loras.set_scale(name, scale)

    def unload_lora(self, name: str) -> None:
        """Take a LoRA out again; without any other one the weights have the bits that they had before.

        Raises:
            UnknownNameError: no LoRA of this name is loaded.
        """
        with self._lock:
            self._refuse_closed()
            self._loras.remove(name)

    @property
    def loras(self) -> dict[str, float]:
        """The scale of every loaded LoRA by its name, in the order they were loaded."""
        return dict(self._loras.scales)


def check_lora(path: str | os.PathLike[str], source: str | os.PathLike[str], scale: float = 1.0) -> None:
    """See whether a LoRA fits a pipeline, by its configs; loads and downloads no weights of the pipeline.

    Raises:
        As ``VideoGenerator.load_lora``.
    """
    checked_scale(scale)
    pipeline = open_pipeline(path, weights=False)
    roles = pipeline.family.compiled
    shapes = {role: _shapes(build_blank(str(pipeline.path / role), {}, torch.float32)) for role in roles}
    read_lora(source, pipeline, shapes)


def checked_scale(scale: float) -> float:
    """The scale. Raises InvalidArgumentError if it is no finite number."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ir.errors.InvalidArgumentError(
            f"the scale of a LoRA must be a finite number, got {scale!r}", hint="1.0 is as it was trained"
        )
    return float(scale)


def _shapes(model: Any) -> dict[str, torch.Size]:
    return {name: param.shape for name, param in model.named_parameters(remove_duplicate=False)}
