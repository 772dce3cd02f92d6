"""The base of all stages."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

import fastvideo_ir as ir

from ...frontends.families import Family
from ...frontends.loading import Component, PipelineFolder
from .geometry import LatentGeometry
from .reference import build_reference
from .state import GenerationState


@dataclass(frozen=True)
class StageContext:
    """What stages work with.

    Attributes:
        pipeline: family and configs.
        components: the loaded components by role; compiled programs in place of compiled modules.
        device: where the caller's tensors live.
        samples: of how many videos a call of the denoiser holds samples at least: the ranks are divided among them.
    """

    pipeline: PipelineFolder
    components: Mapping[str, Component]
    device: torch.device
    samples: int = 1

    @property
    def family(self) -> Family:
        """What is particular to this kind of pipeline."""
        return self.pipeline.family

    @property
    def geometry(self) -> LatentGeometry:
        """Layout of the latents."""
        return LatentGeometry.of(self.pipeline)

    @functools.cached_property
    def reference(self) -> Any:
        """Diffusers' own pipeline object around the same components; stages call its helpers, never the whole."""
        return build_reference(self.family.pipeline_class, self.pipeline, self.components)

    @functools.cached_property
    def picture_reference(self) -> Any:
        """The same, of the class that takes a picture."""
        assert self.family.picture is not None
        return build_reference(self.family.picture.pipeline_class, self.pipeline, self.components)

    def config(self, key: str) -> Any:
        """A config value by its key ``role.key``."""
        return self.pipeline.config_value(key)


class Stage(ABC):
    """One step of a pipeline: checks what it needs, runs, checks what it made, and is timed.

    A stage is plain Python in the caller's process. It reads and sets fields of the state; what it calls may
    be a compiled program whose ranks do the work.

    Attributes:
        requires: fields of the state that must be set before.
        provides: fields of the state that it sets.
        context: what it works with, once it is part of a pipeline.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()

    context: StageContext

    def bind(self, context: StageContext) -> None:
        """Give the stage what it works with; a pipeline does so when the stage is added to it."""
        self.context = context

    @abstractmethod
    def run(self, state: GenerationState) -> None:
        """Do the work; sets the fields named in ``provides``."""

    def steps(self, state: GenerationState) -> int | None:
        """How many steps it reports to the progress view; None if it is reported as a whole."""
        return None

    def verify_input(self, state: GenerationState) -> None:
        """Raise FastVideoError if the state lacks what this stage needs."""
        self._require(state, self.requires, "needs", "an earlier stage must set it")

    def verify_output(self, state: GenerationState) -> None:
        """Raise FastVideoError if what this stage made cannot be right."""
        self._require(state, self.provides, "did not set", "its run() must set it")

    def __call__(self, name: str, state: GenerationState) -> None:
        """Run under ``name``: verified, reported and timed."""
        self.verify_input(state)
        steps = self.steps(state)
        state.progress.stage(name, steps or 1)
        start = time.perf_counter()
        self.run(state)
        self.synchronize()
        state.seconds[name] = time.perf_counter() - start
        if steps is None:
            state.progress.step(state.seconds[name])
        self.verify_output(state)

    def together(self, name: str, states: Sequence[GenerationState]) -> None:
        """Run for several generations, one by one; the error of one is kept in its state, and the others go on."""
        for state in states:
            with state.keeping_error():
                self(name, state)

    def synchronize(self) -> None:
        """Wait for the device, so that times are those of the work and not of its launch."""
        if self.context.device.type == "cuda":
            torch.cuda.synchronize(self.context.device)

    @staticmethod
    def refuse_non_finite(values: torch.Tensor | None, message: str, hint: str) -> None:
        """Raise FastVideoError if there is a NaN or an infinity."""
        if values is not None and not torch.isfinite(values).all():
            raise ir.errors.FastVideoError(message, hint=hint)

    def _require(self, state: GenerationState, fields: tuple[str, ...], verb: str, hint: str) -> None:
        for field in fields:
            if getattr(state, field) is None:
                raise ir.errors.FastVideoError(f"stage {type(self).__name__} {verb} {field!r}", hint=hint)
