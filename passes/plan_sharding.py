"""``plan-sharding``: gives every value a placement on the mesh.

The plan comes from the ops' factor rules and the cost model alone. Sequence parallelism with its all-to-alls around
attention, column and row splits, gathered keys and values: whichever of them a model gets is what the search found
cheapest there. Axes are planned one after the other, each on top of the settled ones.

On a *pinned* axis work must be divided wherever a rule allows, however small the tensors are: heavy ops may not run
replicated, nor cut so unevenly that the busiest rank holds the others up. What counts as heavy is lowered until all but
:attr:`PlanSharding.replicated` of the FLOPs are divided. Communication is then the least that this takes, so that a
tiny model gets the plan of its large sister. What may stay replicated is shared by the pinned axes, since what one
repeats the next one repeats again. Attention is divided whatever its share of a tiny model is: it is what grows.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy, replicated
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.ops.attention import is_attention, is_causal
from fastvideo_ir.repeats import find_repeats
from fastvideo_ir.types import TupleType
from fastvideo_ir.values import tensor_of

from ..backends import attention
from .planner.allowed import allowed
from .planner.axis_order import AxisOrder
from .planner.candidates import Candidates, Rules
from .planner.cost import CostModel, Hardware, Work, largest_local_numel
from .planner.policy import AxisPolicy, policy_of, refuse_small_batch
from .planner.search import Plan, Search
from .planner.statistics import Statistics

FIRST_THRESHOLD = 8
"""Ops with at least this fraction (one over it) of the largest op's FLOPs are always divided."""
ATTENTION_THRESHOLD = 32
"""Attentions with at least this fraction of the largest one's FLOPs are always divided."""
LATENCY_SHARE = 0.05
NEGLIGIBLE = 3e-3
"""Share of the program's time, repeated blocks counted once, below which an op on whole operands is left whole."""
DIVIDED = 1 / 2
"""Share of the FLOPs that an axis must divide at least."""
UNEVEN = 1.15
"""How far the busiest rank's share may exceed an even one before other cuts are preferred."""


class PlanSharding(ir.Pass):
    """Sets types and ``uses`` along every axis of the program's mesh.

    Attributes:
        pinned: work is divided over each axis wherever a rule allows; otherwise wherever the model says it pays.
        replicated: FLOPs that a pinned plan may replicate, summed over ranks, as a share of all.
        hardware: what the cost model assumes.
        device: type of the device that the program will run on.
    """

    name = "plan-sharding"
    needs = ir.Stage.CANONICAL

    pinned: bool = True
    replicated: float = 0.12
    hardware: Hardware = Hardware()
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        plan_program(program, self)


def plan_program(program: ir.Program, options: PlanSharding) -> float:
    """Plan every axis of the mesh, in place; the modelled seconds of one run.

    Raises:
        ShardingError: a pinned axis divides nothing.
    """
    refuse_small_batch(program.mesh, [ir.tensor_type(node).shape for node in program.input_nodes])
    _warn_of_unknown_ops(program)
    rewriter = ir.Rewriter(program, PlanSharding.name)
    settled: frozenset[str] = frozenset()
    seconds, most_work = 0.0, 1 + options.replicated
    axes = [axis for axis, size in program.mesh.axes if size > 1]
    for number, axis in enumerate(axes):
        plan, repeated = plan_axis(program, axis, settled, options, most_work ** (1 / (len(axes) - number)) - 1)
        most_work = max(1.0, most_work / (1 + repeated))
        seconds = plan.seconds
        _apply(rewriter, axis, plan.strategies)
        settled |= {axis}
    if len(axes) > 1:
        AxisOrder(rewriter, at_scale(program, options.hardware, frozenset())).run()
    return seconds


class UnknownOpWarning(UserWarning):
    """An op without a factor rule: its operands are gathered, and every rank computes all of it."""


_warned: set[str] = set()


def has_rule(node: fx.Node) -> bool:
    """False for a call that every rank computes whole because nobody has said how it may be divided."""
    if node.op != "call_function" or is_getitem(node) or runs_on_first_rank(node) or _only_moves(node):
        return True
    op = ir.ops.of(node)
    return not tensor_operands(node) or (op is not None and op.rule is not None)


def _warn_of_unknown_ops(program: ir.Program) -> None:
    """Once per op and process."""
    if program.mesh.num_ranks == 1:
        return
    for node in program.nodes:
        name = "" if has_rule(node) else ir.ops.target_name(node.target)
        if name and name not in _warned:
            _warned.add(name)
            place = ir.info(node).location
            warnings.warn(
                f"{name}{f' ({place})' if place else ''} has no factor rule: its operands are gathered, and every "
                "rank computes all of it; fastvideo.register_op gives it one",
                UnknownOpWarning,
                stacklevel=2,
            )


def _only_moves(node: fx.Node) -> bool:
    return isinstance(node.target, ir.dialect.PlacementOp)


def plan_axis(
    program: ir.Program, axis: str, settled: frozenset[str], options: PlanSharding, replicated_limit: float
) -> tuple[Plan, float]:
    """The cheapest strategies of all calls along ``axis``, and the FLOPs that they repeat, as :func:`replicated_work`.

    On a pinned axis at most ``replicated_limit`` of them, where the rules allow that.
    """
    rules = Rules(program)
    hardware = at_scale(program, options.hardware, settled) if options.pinned else options.hardware
    model = CostModel(hardware, program.mesh, axis, settled)
    calls = list(rules.of)
    works = {node: model.work(node) for node in calls}
    policy = policy_of(axis)
    strategies = _strategies(program, axis, policy, rules, works, options.device)
    left = undivided_work(strategies, works)
    if options.pinned and policy.batch_only and left * (model.parts - 1) > replicated_limit and left <= 1 - DIVIDED:
        # The batch is there to be cut, but the model takes it apart: what it does to single samples is cut otherwise.
        policy = replace(policy, batch_only=False)
        strategies = _strategies(program, axis, policy, rules, works, options.device)
    if policy.whole_heads:
        _refuse_causal(calls, works, axis, options.replicated)
    repeats = find_repeats(program, calls, lambda node: (id(rules.of[node]), works[node]))
    twins = {node for repeat in repeats for node in calls[repeat.start + repeat.period : repeat.stop]}
    negligible = NEGLIGIBLE * sum(work.seconds for node, work in works.items() if node not in twins)
    if not options.pinned:
        plan = Search(program, model, strategies, works, negligible, repeats).run()
        return plan, replicated_work(plan, works, model.parts)
    threshold = max(work.flops for work in works.values()) / FIRST_THRESHOLD
    while True:
        forced = _force_division(strategies, works, model.parts, threshold)
        plan = Search(program, model, forced, works, negligible, repeats).run()
        repeated = replicated_work(plan, works, model.parts)
        avoidable = [
            works[node].flops
            for node, strategy in plan.strategies.items()
            if strategy.divided is None and any(s.divided for s in strategies[node])
        ]
        if repeated <= replicated_limit or not any(avoidable):
            _refuse_idle(plan, works, axis, model.parts)
            return plan, repeated
        threshold = min(threshold / 4, max(avoidable))


def _strategies(
    program: ir.Program, axis: str, policy: AxisPolicy, rules: Rules, works: dict[fx.Node, Work], device: str
) -> dict[fx.Node, list[Strategy]]:
    """What each call may do within ``policy``; replication comes first."""
    candidates = Candidates(program, axis, rules, policy)
    statistics = Statistics(program.mesh, axis)
    result = {}
    for node, rule in rules.of.items():
        found = rules.strategies(rule, candidates.around(node)) if rule else []
        found = allowed(program, node, found, axis, works[node], statistics)
        if any(s.travelling for s in found) and not _runs_as_ring(node, device):
            found = [s for s in found if not s.travelling]
        result[node] = [replicated(len(tensor_operands(node)), result_types(node)), *found]
    return result


def undivided_work(strategies: dict[fx.Node, list[Strategy]], works: dict[fx.Node, Work]) -> float:
    """Share of the FLOPs that no strategy divides."""
    total = sum(work.flops for work in works.values())
    left = sum(works[node].flops for node, found in strategies.items() if not any(s.divided for s in found))
    return left / total if total else 0.0


def _runs_as_ring(node: fx.Node, device: str) -> bool:
    """Whether the backend that was selected for an attention can merge it from pieces."""
    backend = attention.backend_of(node.target)
    if backend is None:
        return True
    return not isinstance(backend.answer(attention.AttentionSite.of(node, device, ring=True)), attention.No)


def _refuse_causal(calls: list[fx.Node], works: dict[fx.Node, Work], axis: str, replicated: float) -> None:
    """Each query of a causal attention sees other keys, and its heads stay whole here: nothing is left to divide."""
    causal = [node for node in calls if is_attention(node) and is_causal(node)]
    if sum(works[node].flops for node in causal) > replicated * sum(work.flops for work in works.values()):
        node = max(causal, key=lambda node: works[node].flops)
        place = ir.info(node).location
        raise ir.errors.ShardingError(
            f"axis {axis!r} cannot divide %{node.name}{f' ({place})' if place else ''}: it is causal, and a ring takes "
            "attentions alone in which every query sees every key or a mask says which",
            hint="divide its heads, with sp or tp",
        )


def _refuse_idle(plan: Plan, works: dict[fx.Node, Work], axis: str, parts: int) -> None:
    counted = any(work.flops for work in works.values())  # without a matmul, time stands in for FLOPs
    size = {node: float(work.flops) if counted else work.seconds for node, work in works.items()}
    total = sum(size.values())
    divided = sum(size[node] for node, strategy in plan.strategies.items() if strategy.divided)
    if total and divided < DIVIDED * total:
        raise ir.errors.IdleAxisError(
            f"axis {axis!r} of {parts} ranks divides only {divided / total:.0%} of the program's "
            f"{'FLOPs' if counted else 'work'}",
            hint=f"there are too few {policy_of(axis).needs} for it; use fewer ranks or another axis",
        )


def _force_division(
    strategies: dict[fx.Node, list[Strategy]], works: dict[fx.Node, Work], parts: int, threshold: float
) -> dict[fx.Node, list[Strategy]]:
    """Leave ops of ``threshold`` FLOPs and more, and large attentions, only strategies that divide them.

    Evenly where that is possible.
    """
    result = dict(strategies)
    attentions = max((works[node].flops for node in strategies if is_attention(node)), default=0) / ATTENTION_THRESHOLD
    for node, options in strategies.items():
        dividing = [s for s in options if s.divided]
        heavy = min(threshold, attentions) if is_attention(node) else threshold
        if dividing and works[node].flops >= max(heavy, 1):
            best = min(s.largest_share(parts) for s in dividing)
            limit = max(best, UNEVEN / parts)
            even = [s for s in dividing if s.largest_share(parts) <= limit]
            result[node] = without_needless_rings(even)
    return result


def without_needless_rings(strategies: list[Strategy]) -> list[Strategy]:
    """Without those in which operands travel that another one cuts for good, as keys and values by heads.

    At full size a ring's kernels cost more than that exchange; tiny tensors would not show it.
    """
    cut = [s for s in strategies if not s.travelling]
    return [
        s
        for s in strategies
        if not s.travelling or not any(all(isinstance(c.operands[n], ir.Shard) for n in s.travelling) for c in cut)
    ]


def replicated_work(plan: Plan, works: dict[fx.Node, Work], parts: int) -> float:
    """FLOPs, summed over the ranks, beyond one rank's, as a share of these."""
    total = sum(work.flops for work in works.values())
    extra = sum(works[node].flops for node, strategy in plan.strategies.items() if strategy.divided is None)
    return extra * (parts - 1) / total if total else 0.0


def _attention_operands(program: ir.Program) -> list[ir.TensorType]:
    """Types of what all attentions read, as the measure of a model's token streams."""
    sites = [node for node in program.nodes if is_attention(node)]
    return [ir.tensor_type(operand) for node in sites for operand in tensor_operands(node)[:3]]


def at_scale(program: ir.Program, hardware: Hardware, settled: frozenset[str]) -> Hardware:
    """The hardware with a latency that is as small against the token stream's bytes as it is in a full-size model."""
    operands = _attention_operands(program)
    largest = max(
        (largest_local_numel(kind, program.mesh, settled) * kind.dtype.itemsize for kind in operands), default=0
    )
    if not largest:
        return hardware
    return replace(hardware, latency=min(hardware.latency, LATENCY_SHARE * largest / hardware.link_bandwidth))


def _apply(rewriter: ir.Rewriter, axis: str, strategies: dict[fx.Node, Strategy]) -> None:
    program = rewriter.program
    wanted: dict[fx.Node, set[ir.Placement]] = {}
    for node, strategy in strategies.items():
        uses = ir.info(node).uses or tuple(ir.tensor_type(operand) for operand in tensor_operands(node))
        operands = tensor_operands(node)
        rewriter.set_uses(
            node, tuple(use.with_placement(axis, p) for use, p in zip(uses, strategy.operands, strict=True))
        )
        for operand, placement in zip(operands, strategy.operands, strict=True):
            wanted.setdefault(operand, set()).add(placement)
        kinds = [
            kind.with_placement(axis, p) if kind is not None and p is not None else None
            for kind, p in zip(result_types(node), strategy.results, strict=True)
        ]
        first = kinds[0]
        is_row = isinstance(ir.value_type(node), TupleType)
        assert is_row or first is not None
        rewriter.set_type(node, TupleType(tuple(kinds)) if is_row or first is None else first)
    for node in program.nodes:
        if is_getitem(node):
            source, number = tensor_of(node)
            kind = result_types(source)[number]
            assert kind is not None
            rewriter.set_type(node, kind)
    for node in program.param_nodes:
        placements = wanted.get(node, set())
        if len(placements) == 1:  # every user wants the same piece: the loader reads just that
            rewriter.set_type(node, ir.tensor_type(node).with_placement(axis, placements.pop()))
