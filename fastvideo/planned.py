"""Programs as they were planned, and what is given up where one does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import fastvideo_ir as ir
from fastvideo_ir.memory import keep

from .assumption import Assumption
from .passes.analysis import USABLE, Memory, predict_memory
from .passes.pipelines import Target


@dataclass(frozen=True)
class Planned:
    """What the ranks run.

    Attributes:
        program: ready for them.
        target: what it was planned for.
        assumption: what it takes for granted of its inputs.
    """

    program: ir.Program
    target: Target
    assumption: Assumption | None = None

    @cached_property
    def memory(self) -> Memory:
        """The predicted peak on the rank that needs most."""
        return predict_memory(self.program, device=self.target.device)

    @property
    def fits(self) -> bool:
        """Whether the target has so much memory, or no limit."""
        return not self.target.memory or self.memory.total <= self.target.memory

    @property
    def no_graphs(self) -> str:
        """Why calls must not be CUDA graphs, which hold a call's activations for good; empty where they may."""
        limit = self.target.memory
        fits = not limit or self.memory.total + self.memory.activations <= USABLE * limit
        return "" if fits else "memory is too short for a CUDA graph's activations beside those of other calls"


Plan = Callable[[Target], Planned]


def plan_within_memory(target: Target, plan: Plan) -> Planned:
    """Plan for ``target``; where memory is short although params are sharded or fetched, keep nothing between calls.

    What follows from invariant inputs is then computed in every call. That may take more: params which a prologue
    alone reads leave the device behind it where they are fetched. The smaller of the two plans is taken.
    """
    planned = plan(target)
    keeps = any(node.target is keep for node in planned.program.nodes)
    if not keeps or not target.memory or planned.memory.total <= USABLE * target.memory:
        return planned
    without = plan(replace(target, invariant=()))
    return without if without.memory.total < planned.memory.total else planned
