"""Runs one class of the zoo: one capture, and a plan and a run on the simulated mesh for each division."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.frontends.capture import Captured, capture
from fastvideo.passes.pipelines import Target, resolve_pipeline
from fastvideo.runtime.executors import SimulatedExecutor

from ..e2e.measuring import Work, count_work, errors_of
from ..models import Inputs
from .cases import ZooCase

MESHES = {"sp=3": Parallel(sp=3), "tp=2": Parallel(tp=2)}
SEEDS = (0, 1)


@dataclass(frozen=True)
class ZooRow:
    """One class on one mesh: the worst error over all outputs and inputs, work against eager's, collectives."""

    error: float
    work_ratio: float
    collectives: Counter[str] = field(default_factory=Counter)


@dataclass
class Subject:
    """A built model, what eager returns for each seed, and what was captured."""

    model: nn.Module
    inputs: dict[int, Inputs]
    expected: dict[int, list[Tensor]]
    work: Work
    captured: Captured

    def capture_for(self, inputs: Inputs) -> Captured:
        """The capture that these inputs run on: another one where a guard has changed, as ``compile`` does."""
        guards = self.captured.guards
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        if guards is None or guards.changed(self.captured.params, tensors) is None:
            return self.captured
        return capture(self.model, (), inputs, verify=False)


@lru_cache(maxsize=1)
def subject(case: ZooCase) -> Subject:
    model = case.case.build(torch.float64)
    inputs = {seed: case.case.inputs(seed, torch.float64) for seed in SEEDS}
    expected = {}
    with torch.no_grad():
        for seed, values in inputs.items():
            expected[seed] = tensors_of(model(**values))
        work = count_work(lambda: model(**inputs[0]))
        captured = capture(model, (), inputs[0], verify=False)
    return Subject(model, inputs, expected, work, captured)


def tensors_of(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def run_on(found: Subject, mesh: str) -> ZooRow:
    """Plan for the mesh and run on every seed."""
    parallel = MESHES[mesh]
    plans: dict[int, tuple[ir.Program, SimulatedExecutor]] = {}
    errors, ratio = [], 0.0
    for seed, inputs in found.inputs.items():
        captured = found.capture_for(inputs)
        if id(captured) not in plans:
            program = captured.program.copy()
            program.mesh = parallel.mesh
            ir.run_passes(program, resolve_pipeline(None, Target(ranks=parallel.num_ranks)))
            plans[id(captured)] = program, SimulatedExecutor(program, captured.params, torch.device("cpu"))
        program, executor = plans[id(captured)]
        tensors = captured.call.flatten((), inputs)
        results: list[list[Any]] = []
        with torch.no_grad():
            work = count_work(lambda: results.append(executor.run(tensors)))  # noqa: B023
        ratio = max(ratio, work.total.total() / found.work.total[None])
        errors += errors_of(tensors_of(captured.call.unflatten(results[0])), found.expected[seed])
    return ZooRow(max(errors), ratio, collectives_of(program))


def collectives_of(program: ir.Program) -> Counter[str]:
    return Counter(
        op.name
        for node in program.nodes
        if (op := ir.ops.of(node)) is not None and ir.ops.Trait.COLLECTIVE in op.traits
    )
