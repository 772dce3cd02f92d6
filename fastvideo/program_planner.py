"""From a captured program to the one that ranks run: by the passes, or by a plan that an earlier process has kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import fastvideo_ir as ir
from fastvideo_ir.errors import IdleAxisError, InvalidArgumentError
from fastvideo_ir.garbage import collections_put_off
from fastvideo_ir.pass_manager import Instrument

from .assumption import Assumption, assume
from .frontends.capture import Captured
from .passes.pipelines import Target, resolve_pipeline
from .plan_cache import PlanCache
from .planned import Planned, plan_within_memory
from .settings import Settings

Observe = Callable[[ir.Program], Sequence[Any]]
"""Runs a program on inputs of which something may be taken for granted."""


class IdleRanksWarning(UserWarning):
    """A part of a pipeline runs on one rank, since dividing it over all of them is not possible."""


class ProgramPlanner:
    """Plans the programs of one model.

    Args:
        name: the model's, for texts.
        settings: say which passes there are, and what is pinned.
        plans: what is known from disk.
        whole_if_idle: plan for one rank, with a warning, what cannot be divided.
    """

    def __init__(self, name: str, settings: Settings, plans: PlanCache, *, whole_if_idle: bool) -> None:
        self._name = name
        self._settings = settings
        self._plans = plans
        self._whole_if_idle = whole_if_idle

    @collections_put_off()
    def plan(
        self, captured: Captured, target: Target, watchers: Sequence[Instrument], observe: Observe | None
    ) -> Planned:
        """Plan for ``target``, or for one rank; ``watchers`` and ``observe`` as for :meth:`run_passes`."""

        def plan(other: Target) -> Planned:
            passes = resolve_pipeline(self._settings.passes, other)
            program, assumption = self.run_passes(captured, passes, watchers, observe)
            return Planned(program, replace(other, evaluate=None), assumption)  # which holds the inputs

        try:
            return plan_within_memory(target, plan)
        except IdleAxisError as error:
            if not self._whole_if_idle or self._settings.parallel is not None:
                raise
            warnings.warn(
                f"{self._name} runs on one of {self._settings.num_ranks} ranks: {error.message}",
                IdleRanksWarning,
                stacklevel=2,
            )
            return plan_within_memory(replace(target, ranks=1), plan)

    def plan_otherwise(self, captured: Captured, planned: Planned, other: Target) -> Planned:
        """What a program would be for another target; what pins the mesh holds for as many ranks alone."""
        program = captured.program.copy()
        if self._settings.parallel is not None and other.ranks == planned.target.ranks:
            self._settings.parallel.annotate(program, captured.call.paths)
        ir.run_passes(program, resolve_pipeline(self._settings.passes, other))
        return Planned(program, other)

    def run_passes(
        self,
        captured: Captured,
        passes: list[ir.Pass],
        watchers: Sequence[Instrument] = (),
        observe: Observe | None = None,
    ) -> tuple[ir.Program, Assumption | None]:
        """The captured program after ``passes``, ready for the ranks, and what it takes for granted of its inputs.

        ``observe`` runs a program on inputs that may be taken for granted; None: nothing may.
        """
        settings = self._settings
        program = captured.program.copy()
        if settings.parallel is not None:
            settings.parallel.annotate(program, captured.call.paths)
        passes, assumption = (passes, None) if observe is None else assume(program, passes, observe)
        key = self._plans.plan_key(program, passes)
        kept = self._plans.plan_at(key) if key else None
        if kept is None:
            ir.run_passes(program, passes, watchers)
        program = kept or program
        if program.stage < ir.Stage.COMMUNICATING and program.mesh.num_ranks > 1:
            raise InvalidArgumentError(
                f"the passes leave the program at stage {program.stage.name}; ranks need COMMUNICATING",
                hint="start from 'default', or end with plan-sharding, insert-reshards, lower-reshards",
            )
        if program.mesh.num_ranks != settings.num_ranks and not self._whole_if_idle:
            raise InvalidArgumentError(
                f"the passes leave the program with {program.mesh}, but it is compiled for {settings.num_ranks} ranks",
                hint="keep choose-mesh among the passes, or pin the division with parallel=Parallel(...)",
            )
        if key and kept is None:
            self._plans.keep_plan(key, program)
        return program, assumption
