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
from fastvideo_ir.repeats import find_repeats
from fastvideo_ir.verifier import rule_of

from ..plan_sharding import NEGLIGIBLE
from ..planner.allowed import allowed as allowed_strategies
from ..planner.cost import CostModel, Hardware
from ..planner.policy import AxisPolicy, policy_of
from ..planner.statistics import Statistics
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
    prices = {axis: _Alternatives(program, axis, hardware, times, negligible) for axis in axes}
    for node in program.nodes:
        if not _counts(node):
            continue
        for axis, alternatives in prices.items():
            strategy = times.strategy(node, axis)
            if strategy is None or strategy.divided is None:
                yield alternatives.judge(node, times.compute(node))


def _work_once(program: ir.Program, times: NodeTimes) -> float:
    """Seconds on one rank, repeated blocks counted once."""
    calls = [node for node in program.nodes if node.op == "call_function" and not is_getitem(node)]
    repeats = find_repeats(calls, lambda node: node.name in program.params, lambda _: None)
    twins = {node for repeat in repeats for node in calls[repeat.start + repeat.period : repeat.stop]}
    return sum(times.one_rank(node) for node in calls if node not in twins)


def _counts(node: fx.Node) -> bool:
    if node.op != "call_function" or is_getitem(node) or isinstance(node.target, ir.dialect.PlacementOp):
        return False
    if runs_on_first_rank(node):
        return False  # nobody repeats it
    return bool(tensor_operands(node)) and not ir.ops.has_trait(node, ir.Trait.VIEW)


class _Alternatives:
    """Ways to divide an op along one axis, and what each of them would cost."""

    def __init__(self, program: ir.Program, axis: str, hardware: Hardware, times: NodeTimes, negligible: float) -> None:
        self._program = program
        self._times = times
        self._negligible = negligible
        self._axis = axis
        self._parts = program.mesh.size(axis)
        self._model = CostModel(hardware, program.mesh, axis, frozenset(program.mesh.names) - {axis})
        self._policy = policy_of(axis)
        self._statistics = Statistics(program.mesh, axis)
        self._known: dict[tuple[object, ...], tuple[str, float | None]] = {}

    def judge(self, node: fx.Node, seconds: float) -> Whole:
        """Why ``node``, which takes ``seconds``, is not divided. Equal ops are judged once."""
        operands = tensor_operands(node)
        kinds = tuple(ir.tensor_type(operand) for operand in operands)
        params = tuple(self._is_param(operand) for operand in operands)
        needed = self._needed_whole(node)
        key = (node.target, repr(map_arguments(node, lambda _: "%")), kinds, params, needed)
        if key not in self._known:
            self._known[key] = self._reason(node, kinds, params, needed, seconds)
        reason, divided = self._known[key]
        return Whole(node, self._axis, reason, seconds, divided)

    def _reason(
        self, node: fx.Node, kinds: tuple[ir.TensorType, ...], params: tuple[bool, ...], needed: bool, seconds: float
    ) -> tuple[str, float | None]:
        if has_no_rule(node):
            return NO_RULE, None
        options = self._strategies(node, kinds)
        if not options:
            return "nothing of it can be cut", None
        allowed = allowed_strategies(self._program, node, options, self._axis, self._model.work(node), self._statistics)
        if self._policy.batch_only:
            allowed = [option for option in allowed if _cuts_first_dims(option)]
        if not allowed:
            return f"axis {self._axis!r} {_limits(self._policy)}", None
        enough = [option for option in allowed if _pieces(option) >= self._parts]
        if not enough:
            most = max(map(_pieces, allowed))
            return f"{most} pieces at most for {self._parts} ranks", None
        divided = min(self._price(node, kinds, option, needed) for option in enough)
        if divided >= seconds:
            return "cheaper than to divide it", divided
        whole = all(kind.placement(self._axis) == ir.Replicate() for kind in kinds)
        if whole and self._times.one_rank(node) < self._negligible:
            return "too small to divide", divided
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

    def _strategies(self, node: fx.Node, kinds: tuple[ir.TensorType, ...]) -> list[Strategy]:
        rule = rule_of(node)
        if rule is None:
            return []
        layouts = []
        for kind in (*kinds, *(result for result in result_types(node) if result is not None)):
            dims = zip(kind.shape, kind.dims, strict=True)
            layouts.append([[dim.layout if dim else ir.Layout.even(size)] if size > 1 else [] for size, dim in dims])
        return [strategy for strategy in rule.strategies(layouts) if strategy.divided is not None]

    def _price(self, node: fx.Node, kinds: tuple[ir.TensorType, ...], option: Strategy, needed: bool) -> float:
        """Seconds when this op is divided; what others follow in is left out, so that it is a lower bound."""
        seconds = self._model.compute(self._model.work(node), option)
        for kind, wanted in zip(kinds, option.operands, strict=True):
            seconds += self._model.reshard(kind, kind.placement(self._axis), wanted)
        for result, given in zip(result_types(node), option.results, strict=True):
            if needed and result is not None and given is not None:
                seconds += self._model.reshard(result, given, result.placement(self._axis))
        return seconds

    def _is_param(self, operand: fx.Node) -> bool:
        return operand.op == "placeholder" and operand.name in self._program.params


def _cuts_first_dims(option: Strategy) -> bool:
    return all(not isinstance(placement, ir.Shard) or placement.dim == 0 for placement in option.operands)


def _pieces(option: Strategy) -> int:
    """Pieces at most; one where settled axes have left nothing to divide."""
    segments = option.divided.segments if option.divided is not None else ()
    return sum(segment.size // segment.unit for segment in segments) or 1


def _limits(policy: AxisPolicy) -> str:
    if policy.batch_only:
        return "cuts the batch alone"
    return "leaves weights whole" if policy.whole_params else "cuts weights or nothing"
