"""Candidate layouts: in which ways each dim of each value could be cut.

Every dim starts with the even cut. Rules then carry layouts from operands to results and back: a reshape into heads
gives the merged dim a unit of ``head_dim``, a ``cat`` of text and video gives the joint sequence one segment each, and
a ``chunk`` asks its operand to be cut chunk by chunk. A few simple candidates per dim are kept: fewest segments first,
then the smallest units.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.verifier import rule_of

from .policy import AxisPolicy
from .search import Value, tensor_of

KEPT = 4
MOST_SEGMENTS = 8
MOST_SWEEPS = 6


class Candidates:
    """Candidate layouts of every dim of every value in a program, for one axis."""

    def __init__(self, program: ir.Program, policy: AxisPolicy, rules: dict[fx.Node, ir.FactorRule | None]) -> None:
        self._layouts: dict[Value, list[tuple[ir.Layout, ...]]] = {}
        self._rules = rules
        self._policy = policy
        for node in program.nodes:
            if node.op == "output":
                continue
            for number, kind in enumerate(result_types(node)):
                if kind is not None:
                    self._layouts[node, number] = [
                        self._seed(program, node, kind, dim) for dim in range(len(kind.shape))
                    ]
        nodes = [node for node in program.nodes if node.op == "call_function"]
        for _ in range(MOST_SWEEPS):
            changed = [self._visit(node) for node in nodes]
            if not policy.batch_only:
                changed += [self._visit(node) for node in reversed(nodes)]
            if not any(changed):
                break

    def _seed(self, program: ir.Program, node: fx.Node, kind: ir.TensorType, dim: int) -> tuple[ir.Layout, ...]:
        settled = kind.dims[dim]
        if kind.shape[dim] < 2:
            return ()
        if self._policy.batch_only:
            is_input = node.op == "placeholder" and node.name not in program.params
            if not is_input or dim != 0:
                return ()
        return (settled.layout if settled else ir.Layout.even(kind.shape[dim]),)

    def of(self, node: fx.Node, number: int = 0) -> Sequence[tuple[ir.Layout, ...]]:
        """Candidates per dim of one result of ``node``."""
        return self._layouts[node, number]

    def around(self, node: fx.Node) -> list[Sequence[tuple[ir.Layout, ...]]]:
        """Candidates of the operands, then of the present results, as :meth:`FactorRule.strategies` takes them."""
        return [self._layouts[key] for key in self._keys(node)]

    def _keys(self, node: fx.Node) -> list[Value]:
        operands = [tensor_of(operand) for operand in tensor_operands(node)]
        return operands + [(node, n) for n, kind in enumerate(result_types(node)) if kind is not None]

    def _visit(self, node: fx.Node) -> bool:
        if is_getitem(node):
            source = tensor_of(node)
            return self._share(source, (node, 0))
        rule = self._rules[node]
        if rule is None:
            return False
        keys = self._keys(node)
        tensors = [*rule.operands, *(result for result in rule.results if result is not None)]
        changed = False
        for key, tensor in zip(keys, tensors, strict=True):
            for dim, expr in enumerate(tensor):
                for layout in self._layouts[key][dim]:
                    assignment = complete_assignment(rule, expr, layout)
                    if assignment is not None:
                        changed |= self._spread(rule, dict(assignment), keys, tensors)
        return changed

    def _share(self, left: Value, right: Value) -> bool:
        changed = False
        for dim, (a, b) in enumerate(zip(self._layouts[left], self._layouts[right], strict=True)):
            merged = _best((*a, *b))
            for key, old in ((left, a), (right, b)):
                if merged != old:
                    self._layouts[key][dim] = merged
                    changed = True
        return changed

    def _spread(
        self,
        rule: ir.FactorRule,
        assignment: dict[int, ir.Layout],
        keys: list[Value],
        tensors: Sequence[Sequence[object]],
    ) -> bool:
        changed = False
        for key, tensor in zip(keys, tensors, strict=True):
            for dim, expr in enumerate(tensor):
                try:
                    layout = rule.layout(expr, assignment)  # type: ignore[arg-type]
                except ir.errors.ShardingError:
                    continue
                old = self._layouts[key][dim]
                if layout is None or layout in old or len(layout.segments) > MOST_SEGMENTS:
                    continue
                best = _best((*old, layout))
                if best != old:
                    self._layouts[key][dim] = best
                    changed = True
        return changed


@lru_cache(maxsize=65536)
def _completed(rule: ir.FactorRule, expr: object, layout: ir.Layout) -> tuple[tuple[int, ir.Layout], ...] | None:
    assignment = rule.assign(expr, layout)  # type: ignore[arg-type]
    complete = rule.complete(assignment) if assignment else None
    return tuple(complete.items()) if complete else None


def complete_assignment(
    rule: ir.FactorRule, expr: object, layout: ir.Layout
) -> tuple[tuple[int, ir.Layout], ...] | None:
    """The whole assignment that gives ``expr`` the layout, or None; remembered, since blocks repeat."""
    return _completed(rule, expr, layout)


def _best(layouts: Sequence[ir.Layout]) -> tuple[ir.Layout, ...]:
    unique = dict.fromkeys(layouts)
    return tuple(sorted(unique, key=_complexity)[:KEPT])


def _complexity(layout: ir.Layout) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    segments = tuple((s.size, s.unit) for s in layout.segments)
    return len(segments), max(s.unit for s in layout.segments), segments


def rules_of(program: ir.Program) -> dict[fx.Node, ir.FactorRule | None]:
    """The factor rule of every call; tuple elements have none of their own."""
    return {node: None if is_getitem(node) else rule_of(node) for node in program.nodes if node.op == "call_function"}
