"""Which ops every rank of an axis repeats, and why: read off a planned program, priced by the planner's cost model.

An op is repeated for one of these reasons, asked in this order:
- it has no factor rule, or its rule allows nothing at these shapes;
- the axis may not cut what would have to be cut (``planner/policy.py``);
- whatever could be cut has fewer pieces than the axis has ranks;
- dividing it, with the exchanges that this takes, costs more than repeating it does;
- it has whole operands and so little work that the planner leaves it as it is (``plan-sharding``);
- it is dearer to divide together with its neighbours, although not by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import is_getitem, map_arguments, result_types, tensor_operands
from fastvideo_ir.repeats import calls_of, find_repeats

from ..plan_sharding import NEGLIGIBLE
from ..planner.cost import Hardware
from ..planner.policy import AxisPolicy, policy_of
from .alternatives import Alternatives
from .time import NodeTimes

NO_RULE = "no factor rule"


@dataclass(frozen=True)
class Whole:
    """One op that is not divided along an axis.

    Attributes:
        node: the op.
        axis: the mesh axis.
        reason: why, without figures.
        seconds: what it takes on every rank.
        divided_seconds: what it would take if it were divided: its operands cut or exchanged, its results gathered
            where an op that is divided needs them whole. None where it cannot be divided.
    """

    node: fx.Node
    axis: str
    reason: str
    seconds: float
    divided_seconds: float | None = None


def has_no_rule(node: fx.Node) -> bool:
    """Whether ``node`` calls an op of which nothing is known."""
    op = ir.ops.of(node)
    return _counts(node) and (op is None or op.rule is None)


def whole_ops(program: ir.Program, times: NodeTimes, hardware: Hardware) -> Iterator[Whole]:
    """Every op with tensor operands that some axis of more than one rank does not divide; views are left out.

    Args:
        program: at stage COMMUNICATING.
        times: its prices.
        hardware: what exchanges are priced for.
    """
    axes = [axis for axis, parts in program.mesh.axes if parts > 1]
    negligible = NEGLIGIBLE * _work_once(program, times)
    judges = {axis: _Judge(program, axis, hardware, times, negligible) for axis in axes}
    for node in program.nodes:
        if not _counts(node):
            continue
        for axis, judge in judges.items():
            strategy = times.strategy(node, axis)
            if strategy is None or strategy.divided is None:
                yield judge.judge(node, times.compute(node))


def _work_once(program: ir.Program, times: NodeTimes) -> float:
    """Seconds on one rank, repeated blocks counted once."""
    calls = calls_of(program)
    repeats = find_repeats(program, calls)
    twins = {node for repeat in repeats for node in calls[repeat.start + repeat.period : repeat.stop]}
    return sum(times.one_rank(node) for node in calls if node not in twins)


def _counts(node: fx.Node) -> bool:
    if node.op != "call_function" or is_getitem(node) or isinstance(node.target, ir.dialect.PlacementOp):
        return False
    if runs_on_first_rank(node):
        return False  # nobody repeats it
    return bool(tensor_operands(node)) and not ir.ops.has_trait(node, ir.Trait.VIEW)


class _Judge:
    """Says why ops are not divided along one axis."""

    def __init__(self, program: ir.Program, axis: str, hardware: Hardware, times: NodeTimes, negligible: float) -> None:
        self._alternatives = Alternatives(program, axis, hardware)
        self._times = times
        self._negligible = negligible
        self._axis = axis
        self._parts = program.mesh.size(axis)
        self._policy = policy_of(axis)
        self._params = program.params
        self._known: dict[tuple[object, ...], tuple[str, float | None]] = {}

    def judge(self, node: fx.Node, seconds: float) -> Whole:
        """Why ``node``, which takes ``seconds``, is not divided. Equal ops are judged once."""
        operands = tensor_operands(node)
        kinds = tuple(ir.tensor_type(operand) for operand in operands)
        params = tuple(operand.name in self._params for operand in operands)
        needed = self._needed_whole(node)
        key = (node.target, repr(map_arguments(node, lambda _: "%")), kinds, params, needed)
        if key not in self._known:
            self._known[key] = self._reason(node, kinds, needed, seconds)
        reason, divided = self._known[key]
        return Whole(node, self._axis, reason, seconds, divided)

    def _reason(
        self, node: fx.Node, kinds: tuple[ir.TensorType, ...], needed: bool, seconds: float
    ) -> tuple[str, float | None]:
        if has_no_rule(node):
            return NO_RULE, None
        options = self._alternatives.dividing(node)
        if not options:
            return "nothing of it can be cut", None
        allowed = self._alternatives.allowed(node, options)
        if not allowed:
            return f"axis {self._axis!r} {_limits(self._policy)}", None
        enough = [option for option in allowed if _pieces(option) >= self._parts]
        if not enough:
            most = max(map(_pieces, allowed))
            return f"{most} pieces at most for {self._parts} ranks", None
        targets = result_types(node) if needed else ()
        divided = min(self._alternatives.price(node, option, kinds, targets) for option in enough)
        if divided >= seconds:
            return "cheaper than to divide it", divided
        whole = all(kind.placement(self._axis) == ir.Replicate() for kind in kinds)
        if whole and self._times.one_rank(node) < self._negligible:
            return "too small to divide one by one", divided
        return "dearer with its neighbours", divided

    def _needed_whole(self, node: fx.Node) -> bool:
        """Whether something that is divided reads a result as a whole, through views or by itself."""
        for user in node.users:
            if user.op == "output":
                return True
            if user.target in ir.dialect.LOCAL_PLACEMENTS:
                continue
            if is_getitem(user) or ir.ops.has_trait(user, ir.Trait.VIEW):
                if self._needed_whole(user):
                    return True
                continue
            strategy = self._times.strategy(user, self._axis)
            if strategy is not None and strategy.divided is not None:
                return True
        return False


def _pieces(option: Strategy) -> int:
    """Pieces at most; one where settled axes have left nothing to divide."""
    segments = option.divided.segments if option.divided is not None else ()
    return sum(segment.size // segment.unit for segment in segments) or 1


def _limits(policy: AxisPolicy) -> str:
    if policy.batch_only:
        return "cuts the batch alone"
    return "leaves weights whole" if policy.whole_params else "cuts weights or nothing"
