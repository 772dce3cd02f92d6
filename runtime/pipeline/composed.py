"""A pipeline: stages in order over one state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

import fastvideo_ir as ir

from ...frontends.loading import Component, PipelineFolder
from .progress import NO_PROGRESS, Progress
from .stage import Stage, StageContext
from .standard_stages import StandardStages
from .state import GenerationRequest, GenerationState
from .steps import StepCallback


class ComposedPipelineBase(ABC):
    """Runs stages in order, single-process, in the caller. A subclass says which, in :meth:`create_pipeline_stages`.

    Args:
        pipeline: family and configs.
        components: loaded components by role. A module may be replaced by any callable with its signature.
        device: where the caller's tensors live; modules that are no compiled programs must be there.
        samples: of how many videos a call of the denoiser holds samples at least.

    Attributes:
        context: family, components and device, which every stage has too.
        stages: the stages by name, in the order they run.
    """

    def __init__(
        self, pipeline: PipelineFolder, components: Mapping[str, Component], device: torch.device, samples: int = 1
    ) -> None:
        self.context = StageContext(pipeline, components, device, samples)
        self.stages: dict[str, Stage] = {}
        self.create_pipeline_stages(self.context)

    @abstractmethod
    def create_pipeline_stages(self, args: StageContext) -> None:
        """Add the stages, with :class:`StandardStages` and :meth:`add_stage`.

        Args:
            args: family, components and device.
        """

    def add_stage(self, name: str, stage: Stage, *, before: str | None = None) -> None:
        """Add a stage under a new name, before the one named or at the end.

        Raises:
            InvalidArgumentError: there is a stage of this name.
            UnknownNameError: there is no stage ``before``.
        """
        if name in self.stages:
            raise ir.errors.InvalidArgumentError(
                f"there is a stage {name!r} already", hint="give the new stage another name"
            )
        if before is not None and before not in self.stages:
            raise ir.errors.UnknownNameError("stage", before, self.stages)
        stage.bind(self.context)
        names = list(self.stages)
        at = len(names) if before is None else names.index(before)
        order = [*names[:at], name, *names[at:]]
        self.stages = {key: stage if key == name else self.stages[key] for key in order}

    def run(
        self, request: GenerationRequest, progress: Progress = NO_PROGRESS, on_step: StepCallback | None = None
    ) -> GenerationState:
        """Run all stages; the state that comes back holds the latents, the frames and the times.

        Args:
            request: what is asked for.
            progress: told of stages and steps.
            on_step: called after each denoising step.

        Raises:
            InvalidArgumentError: the request is one the models cannot serve.
            GenerationCancelledError: ``on_step`` returned False.
            FastVideoError: a stage failed, or made something that cannot be right.
        """
        [state] = self.run_together([request], progress, on_step)
        if state.error is not None:
            raise state.error
        return state

    def run_together(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress = NO_PROGRESS,
        on_step: StepCallback | None = None,
    ) -> list[GenerationState]:
        """Run all stages for several requests side by side: a denoising step is one call for all of them.

        Args:
            requests: what is asked for.
            progress: told of stages and steps.
            on_step: called after each denoising step of each.

        Returns:
            A state each, in order; the ``error`` of one that failed says why, and the others went on.

        Raises:
            GenerationCancelledError: ``on_step`` returned False.
        """
        states = [GenerationState(request, progress, on_step) for request in requests]
        # no_grad and not inference_mode: compiled programs look at version counters, which the latter drops.
        with torch.no_grad():
            for name, stage in self.stages.items():
                stage.together(name, [state for state in states if state.error is None])
        return states


class ComposedPipeline(ComposedPipelineBase):
    """The stages that the family names.

    Raises:
        UnknownNameError: the family names a stage that does not exist.
    """

    def create_pipeline_stages(self, args: StageContext) -> None:
        for name in args.family.stages:
            StandardStages.add(self, name)
