"""Random programs, planned and run on all ranks, agree with the program run whole, and ranks do not repeat work.

Plans are those of the planner, and random ones: any strategy that a rule allows, for any call. The latter try what no
cost would choose.
"""

from __future__ import annotations

import os
import random
from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, assume, given, settings
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

import fastvideo_ir as ir
from fastvideo.passes import plan_sharding
from fastvideo.passes.plan_sharding import PlanSharding
from fastvideo.passes.planner.search import Plan
from fastvideo_ir.errors import ShardingError
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import result_types, tensor_operands

from .random_programs import Builder, builders
from .running import RankRun, Values, run_passes, run_whole

LOWER = "insert-reshards,expand-statistics,lower-reshards,pack-collectives"
TOLERANCE = 1e-9
"""Sums are taken in another order, and norms of nearly equal numbers magnify that."""
FUZZ = os.environ.get("FUZZ")
"""``FUZZ=2000 pytest --timeout=0 …`` tries as many programs, others each time, and does not shrink what it finds."""
fuzzed = settings(
    max_examples=int(FUZZ or 25),
    derandomize=not FUZZ,
    phases=(Phase.generate,) if FUZZ else tuple(Phase),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MESHES = ("sp=2", "sp=3", "tp=2", "tp=3", "sp=2, tp=2", "tp=2, sp=3")


class AnyPlan:
    """In the place of the search: takes any strategy for each call."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, program: ir.Program, model: object, strategies: dict[fx.Node, list[Strategy]], *_: Any) -> Any:
        plan = Plan({node: self._random.choice(options) for node, options in strategies.items()}, 0.0)
        return mock.Mock(run=lambda: plan)


def meshed(builder: Builder, mesh: str) -> ir.Program:
    program = builder.program.copy()
    program.mesh = ir.Mesh(tuple((name, int(size)) for name, size in (part.split("=") for part in mesh.split(", "))))
    return program


def check(builder: Builder, planned: ir.Program) -> None:
    """Ranks give what the whole program gives, with no FLOPs but those that the placements say."""
    values: Values = (builder.params, builder.inputs)
    expected = run_whole(builder.program, values)
    after = run_passes(planned, LOWER)
    ranks = RankRun(after, values)
    with FlopCounterMode(display=False) as counter:
        outputs = ranks.outputs()
    for found in outputs:
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            scale = max(1.0, float(b.abs().max()))
            assert float((a - b).abs().max()) <= TOLERANCE * scale, f"output {number}\n{ir.print_program(after)}"
    assert counter.get_total_flops() <= claimed_flops(after), ir.print_program(after)


def claimed_flops(program: ir.Program) -> int:
    """Summed over the ranks, as the placements say: an op with a sharded operand or result is divided by the axis."""
    total = 0
    for node in program.nodes:
        op = ir.ops.of(node)
        if op is None or op.flops is None:
            continue
        kinds = [*(ir.tensor_type(operand) for operand in tensor_operands(node)), *result_types(node)]
        cut = {axis for kind in kinds if kind is not None for dim in kind.dims if dim for axis in dim.axes}
        copies = 1
        for axis, size in program.mesh.axes:
            copies *= 1 if axis in cut else size
        total += op.flops(node) * copies
    return total


@fuzzed
@given(builders(), st.sampled_from(MESHES))
def test_planned_programs_agree_with_whole_ones(builder: Builder, mesh: str) -> None:
    program = meshed(builder, mesh)
    try:
        planned = run_passes(program, [PlanSharding()])
    except ShardingError as error:
        assume("divides only" not in str(error))
        raise
    check(builder, planned)


@fuzzed
@given(builders(), st.sampled_from(("x=2", "x=3", "x=4", "x=2, y=2", "x=2, y=3")), st.integers(0, 2**16))
def test_programs_with_any_strategies_agree_with_whole_ones(builder: Builder, mesh: str, seed: int) -> None:
    program = meshed(builder, mesh)
    with mock.patch.object(plan_sharding, "Search", AnyPlan(seed)):
        planned = run_passes(program, [PlanSharding(pinned=False)])
    check(builder, planned)
