"""Candidate layouts: in which ways each dim of each value could be cut.

Every dim starts with the even cut. Rules then carry layouts from operands to results and back: a reshape into heads
gives the merged dim a unit of ``head_dim``, a ``cat`` of text and video gives the joint sequence one segment each, and
a ``chunk`` asks its operand to be cut chunk by chunk. A few simple candidates per dim are kept: fewest segments first,
then the smallest units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.values import Value, tensor_of
from fastvideo_ir.verifier import rule_of

from .policy import AxisPolicy

KEPT = 4
MOST_SEGMENTS = 8
MOST_SWEEPS = 6

Layouts = tuple[ir.Layout, ...]
Spread = tuple[tuple[int, int, ir.Layout], ...]
"""Layouts that one assignment gives: tensor number, dim, layout."""


class Rules:
    """The factor rules of a program's calls. Equal rules are one object, since blocks repeat; so is all they imply."""

    def __init__(self, program: ir.Program) -> None:
        self._unique: dict[ir.FactorRule, ir.FactorRule] = {}
        self._spreads: dict[tuple[int, int, int, ir.Layout], Spread] = {}
        self._strategies: dict[tuple[int, tuple[tuple[Layouts, ...], ...]], list[ir.Strategy]] = {}
        self.of: dict[fx.Node, ir.FactorRule | None] = {}
        for node in program.nodes:
            if node.op == "call_function" and not is_getitem(node):
                rule = rule_of(node)
                self.of[node] = None if rule is None else self._unique.setdefault(rule, rule)

    def spread(self, rule: ir.FactorRule, tensor: int, dim: int, layout: ir.Layout) -> Spread:
        """What follows for all tensors of an op when ``dim`` of its ``tensor``-th one is cut as ``layout``."""
        key = (id(rule), tensor, dim, layout)
        if key not in self._spreads:
            self._spreads[key] = tuple(_spread(rule, tensor, dim, layout))
        return self._spreads[key]

    def strategies(self, rule: ir.FactorRule, layouts: Sequence[Sequence[Layouts]]) -> list[ir.Strategy]:
        """As :meth:`FactorRule.strategies`, rings among them."""
        key = (id(rule), tuple(tuple(dims) for dims in layouts))
        if key not in self._strategies:
            self._strategies[key] = rule.strategies(layouts) + rule.ring_strategies(layouts)
        return self._strategies[key]


def _tensors(rule: ir.FactorRule) -> list[ir.TensorExpr]:
    return [*rule.operands, *(result for result in rule.results if result is not None)]


def _spread(rule: ir.FactorRule, tensor: int, dim: int, layout: ir.Layout) -> list[tuple[int, int, ir.Layout]]:
    tensors = _tensors(rule)
    assignment = rule.assign(tensors[tensor][dim], layout)
    complete = rule.complete(assignment) if assignment else None
    if complete is None:
        return []
    found = []
    for number, expressions in enumerate(tensors):
        for position, expr in enumerate(expressions):
            try:
                other = rule.layout(expr, complete)
            except ir.errors.ShardingError:
                continue  # this dim would be cut twice; the strategy is refused later, its neighbours need not know
            if other is not None and len(other.segments) <= MOST_SEGMENTS:
                found.append((number, position, other))
    return found


class Candidates:
    """Candidate layouts of every dim of every value in a program, for one axis within its policy."""

    def __init__(self, program: ir.Program, axis: str, rules: Rules, policy: AxisPolicy) -> None:
        self._rules = rules
        self._axis = axis
        self._policy = policy
        self._layouts: dict[Value, list[Layouts]] = {}
        for node in program.nodes:
            if node.op == "output" or is_getitem(node):
                continue
            for number, kind in enumerate(result_types(node)):
                if kind is not None:
                    self._layouts[node, number] = [self._seed(program, node, kind, d) for d in range(len(kind.shape))]
        self._values = {node: self._values_of(node) for node in rules.of}
        self._touching: dict[Value, list[fx.Node]] = {}
        for node, values in self._values.items():
            for value in values:
                self._touching.setdefault(value, []).append(node)
        self._settled: set[fx.Node] = set()  # a visit changes nothing until a value of theirs is changed
        forward = list(rules.of)
        for sweep in range(MOST_SWEEPS):
            backward = sweep % 2 == 1 and not self._policy.batch_only
            changed = [self._visit(node) for node in (reversed(forward) if backward else forward)]
            if sweep and not any(changed):
                break

    def _seed(self, program: ir.Program, node: fx.Node, kind: ir.TensorType, dim: int) -> Layouts:
        settled = kind.dims[dim]
        if kind.shape[dim] < 2:
            return ()
        if self._axis in ir.info(node).pinned:
            placement = kind.placement(self._axis)
            return (placement.layout,) if isinstance(placement, ir.Shard) and placement.dim == dim else ()
        if self._policy.batch_only:
            is_input = node.op == "placeholder" and node.name not in program.params
            if not is_input or dim != 0:
                return ()
        return (settled.layout if settled else ir.Layout.even(kind.shape[dim]),)

    def around(self, node: fx.Node) -> list[list[Layouts]]:
        """Candidates of the operands, then of the present results, as :meth:`FactorRule.strategies` takes them."""
        return [self._layouts[value] for value in self._values[node]]

    def _values_of(self, node: fx.Node) -> list[Value]:
        operands = [tensor_of(operand) for operand in tensor_operands(node)]
        return operands + [(node, n) for n, kind in enumerate(result_types(node)) if kind is not None]

    def _visit(self, node: fx.Node) -> bool:
        rule = self._rules.of[node]
        if rule is None or node in self._settled:
            return False
        values = self._values[node]
        changed = False
        for tensor, value in enumerate(values):
            for dim, layouts in enumerate(self._layouts[value]):
                for layout in layouts:
                    for number, position, implied in self._rules.spread(rule, tensor, dim, layout):
                        changed |= self._add(values[number], position, implied)
        if not changed:
            self._settled.add(node)
        return changed

    def _add(self, value: Value, dim: int, layout: ir.Layout) -> bool:
        old = self._layouts[value][dim]
        if layout in old:
            return False
        best = tuple(sorted((*old, layout), key=_complexity)[:KEPT])
        if best == old:
            return False
        self._layouts[value][dim] = best
        self._settled.difference_update(self._touching[value])
        return True


def _complexity(layout: ir.Layout) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    segments = tuple((s.size, s.unit) for s in layout.segments)
    return len(segments), max(s.unit for s in layout.segments), segments
