"""Runs one class of the zoo: compiled for each division of the work on the simulated mesh, and captured only once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fastvideo.compiler
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.frontends.capture import Captured, capture
from fastvideo_ir.graph import result_types

from ..e2e.measuring import count_work, errors_of
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
    """A built model, what eager returns for each seed, and all captures of it."""

    model: nn.Module
    inputs: dict[int, Inputs]
    expected: dict[int, list[Tensor]]
    flops: int
    captures: list[Captured]

    def capture(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, verify: bool) -> Captured:
        """As the real one, but for what is captured already."""
        assert model is self.model
        for known in self.captures:
            if known.guards is None or known.guards.changed(known.params, known.call.flatten(args, kwargs)) is None:
                break
        else:
            known = capture(model, args, kwargs, verify=verify)
            self.captures.append(known)
        guards = replace(known.guards, program=known.guards.program.copy()) if known.guards else None
        return replace(known, program=known.program.copy(), guards=guards)

    @contextmanager
    def compiled(self, parallel: Parallel) -> Iterator[fastvideo.compiler.CompiledModel]:
        with (
            mock.patch.object(fastvideo.compiler, "capture", self.capture),
            fastvideo.compile(
                self.model, parallel=parallel, executor="simulated", device="cpu", verify=False
            ) as compiled,
        ):
            yield compiled


@lru_cache(maxsize=1)
def subject(case: ZooCase) -> Subject:
    """The model, captured for the first inputs."""
    model = case.case.build(case.dtype)
    inputs = {seed: case.case.inputs(seed, case.dtype) for seed in SEEDS}
    with torch.no_grad():
        expected = {seed: tensors_of(model(**values)) for seed, values in inputs.items()}
        work = count_work(lambda: model(**inputs[SEEDS[0]]))
    return Subject(model, inputs, expected, work.total.total(), [capture(model, (), inputs[SEEDS[0]], verify=False)])


def run_on(found: Subject, mesh: str) -> ZooRow:
    """Plan for the mesh and run on every seed."""
    errors = []
    with found.compiled(MESHES[mesh]) as compiled:
        for seed, inputs in found.inputs.items():
            errors += errors_of(tensors_of(compiled(**inputs)), found.expected[seed])
        work = count_work(lambda: compiled(**found.inputs[SEEDS[0]])).total
        ratio = sum(flops for rank, flops in work.items() if rank is not None) / found.flops
        program = compiled.programs[0]
    return ZooRow(max(errors), ratio, collectives_of(program))


def rounds_to_fp32(program: ir.Program) -> bool:
    """Whether anything is computed in fp32."""
    return any(
        kind is not None and kind.dtype in (torch.float32, torch.complex64)
        for node in program.nodes
        if node.op == "call_function"
        for kind in result_types(node)
    )


def tensors_of(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def collectives_of(program: ir.Program) -> Counter[str]:
    return Counter(
        op.name
        for node in program.nodes
        if (op := ir.ops.of(node)) is not None and ir.ops.Trait.COLLECTIVE in op.traits
    )
