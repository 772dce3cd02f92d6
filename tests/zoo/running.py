"""Runs one class of the zoo: compiled for each division of the work on the simulated mesh, and captured only once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo_ir.graph import result_types

from ..captures import Captures
from ..e2e.measuring import Work, attention_share, count_work, errors_of
from ..e2e.scrambling import nameless, scrambled
from ..models import Inputs
from .blocks import BlockTraffic, block_paths, steady, traffic
from .cases import ZooCase
from .gathers import TokenGather, token_gathers
from .meshes import HEADS, Setting

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class ZooRow:
    """One class in one setting.

    Attributes:
        error: the worst over all outputs and inputs.
        work: FLOPs summed over the ranks, as a multiple of eager's.
        attention: of the busiest rank, as a multiple of an even share of eager's; None without attention.
        collectives: of the whole model.
        blocks: what crosses in each repeated block.
        gathers: of the token stream, in repeated blocks.
        program: the planned one.
    """

    error: float
    work: float
    attention: float | None
    collectives: Counter[str]
    blocks: list[BlockTraffic]
    gathers: list[TokenGather]
    program: ir.Program

    @property
    def busiest(self) -> BlockTraffic:
        """The block in which most crosses."""
        return max(
            steady(self.blocks), key=lambda block: (block.bytes, block.collectives.total()), default=BlockTraffic("")
        )

    def __str__(self) -> str:
        share = "no attention" if self.attention is None else f"attention {self.attention:.3f} × an even share"
        return f"error {self.error:.1e}, work {self.work:.3f} × eager's, {share}, {dict(self.collectives)}"


@dataclass
class Subject:
    """A built model, what eager returns for each seed, and all captures of it."""

    model: nn.Module
    inputs: dict[int, Inputs]
    expected: dict[int, list[Tensor]]
    eager: Work
    captures: Captures


@lru_cache(maxsize=1)
def subject(case: ZooCase, heads: int = HEADS, batch: int = 1) -> Subject:
    """The model, captured for the first inputs."""
    at = case.at(heads)
    model = at.build(case.dtype).requires_grad_(False)  # torch's counter trips over views of leaves
    inputs = {seed: at.inputs(seed, case.dtype, batch) for seed in SEEDS}
    with torch.no_grad():
        expected = {seed: tensors_of(model(**values)) for seed, values in inputs.items()}
    captures = Captures(model)
    captured = captures.capture(model, (), inputs[SEEDS[0]])
    eager = Work() if case.flex else count_work(lambda: model(**inputs[SEEDS[0]]))
    if case.flex:
        eager.total = work_on_one_rank(captured, inputs[SEEDS[0]]).total
    elif not eager.attention[None]:  # written out as matmuls: what the program knows as attention
        eager.attention = work_on_one_rank(captured, inputs[SEEDS[0]]).attention
    return Subject(model, inputs, expected, eager, captures)


def work_on_one_rank(captured: Captured, inputs: Inputs) -> Work:
    program = captured.program.copy()
    ir.run_passes(program, default_pipeline(Target()))
    flat = captured.call.flatten((), inputs)
    return count_work(lambda: ir.interpreter.evaluate(program, captured.params, flat))


def run_on(found: Subject, setting: Setting) -> ZooRow:
    """Plan for the mesh and run on every seed; the first one is counted, and runs last."""
    errors: list[float] = []
    first, *others = SEEDS
    with found.captures.compiled(parallel=setting.parallel, executor="simulated") as compiled:
        for seed in others:
            errors += errors_of(tensors_of(compiled(**found.inputs[seed])), found.expected[seed])
        if len(found.captures.known) > 1:
            compiled(**found.inputs[first])  # plans, which is not to be counted
        outputs: list[Tensor] = []
        work = count_work(lambda: outputs.extend(tensors_of(compiled(**found.inputs[first]))))
        errors += errors_of(outputs, found.expected[first])
        program = compiled.programs[0]
    whole = found.eager.attention[None]
    blocks = traffic(program, block_paths(found.model))
    return ZooRow(
        error=max(errors),
        work=sum(flops for rank, flops in work.total.items() if rank is not None) / found.eager.total[None],
        attention=attention_share(work, whole) if whole else None,
        collectives=collectives_of(program),
        blocks=blocks,
        gathers=token_gathers(program, blocks),
        program=program,
    )


def names_decide_nothing(found: Subject, row: ZooRow) -> bool:
    """Whether the program is planned in the same way when everything in it bears another name."""
    captured, mesh = found.captures.known[0].program, row.program.mesh
    programs = [scrambled(captured, seed=len(found.inputs)), captured.copy()]
    for program in programs:  # the row's program may be of another capture, or assume something of masks
        program.mesh = mesh
        ir.run_passes(program, default_pipeline(Target(mesh.num_ranks)))
    return nameless(programs[0]) == nameless(programs[1])


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
        op.name.removeprefix("fv.")
        for node in program.nodes
        if (op := ir.ops.of(node)) is not None and ir.ops.Trait.COLLECTIVE in op.traits
    )
