"""Expansions: an op over a sharded dim as ops with ordinary rules, of which the ranks reduce small statistics alone.

A norm whose channels are sharded, a mean over sharded tokens, needs no more of the other ranks than a sum per row. Such
an op says in its rule which factors are STATISTIC, and how it is written out where one of them is sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from . import dialect
from .errors import ShardingError
from .factors import Strategy, replicated
from .graph import map_operands, result_types, tensor_operands
from .mesh import Mesh
from .ops.registry import of, target_name
from .program import NodeInfo, Program, Stage, set_info, tensor_type, value_type
from .rewriter import Rewriter
from .types import Partial, Placement, Replicate, Shard, TensorType, TupleType
from .verifier import rule_of, strategy_of


def is_expanded(node: fx.Node) -> bool:
    """Whether a placed node must be expanded."""
    op = of(node)
    if op is None or op.expansion is None:
        return False
    operands, results = tuple(tensor_type(operand) for operand in tensor_operands(node)), result_types(node)
    rule = rule_of(node)
    found = [strategy_of(rule, operands, results, axis) for axis in _axes(operands)]
    return any(strategy is not None and strategy.expanded for strategy in found)


def expand(rewriter: Rewriter, node: fx.Node) -> None:
    """Put the expansion in the place of a placed node, with ``fv.reshard`` where a partial sum must be whole."""
    op = of(node)
    assert op is not None and op.expansion is not None
    writer = _Writer(rewriter, node)
    values = []
    for value, kind in zip(op.expansion(node, writer.emit), result_types(node), strict=True):
        assert kind is not None, "an expansion has every result"
        values.append(writer.in_placement(value, kind, node))
    if isinstance(value_type(node), TensorType):
        rewriter.replace(node, values[0])
        return
    for user in list(node.users):
        number = user.args[1]
        assert isinstance(number, int)
        rewriter.replace(user, values[number])
    rewriter.erase(node)


def statistics(
    node: fx.Node, operands: Sequence[TensorType], results: Sequence[TensorType | None], mesh: Mesh
) -> list[TensorType]:
    """What ranks reduce inside ``node`` when it is expanded with its operands and results placed like these."""
    graph = fx.Graph()
    inputs: list[fx.Node] = []
    for kind in operands:
        inputs.append(graph.placeholder(f"x{len(inputs)}"))
        inputs[-1].meta = {}
        set_info(inputs[-1], NodeInfo(kind))
    call = graph.call_function(node.target, *map_operands(node, inputs))  # type: ignore[arg-type]
    call.meta = {}
    first = results[0]
    set_info(call, NodeInfo(first if len(results) == 1 and first is not None else TupleType(tuple(results))))
    graph.output((call,) if len(results) == 1 else ())
    program = Program(graph, mesh=mesh, stage=Stage.PLACED)
    expand(Rewriter(program, "statistics"), call)
    return [tensor_type(tensor_operands(n)[0]) for n in program.nodes if n.target is dialect.reshard]


class _Writer:
    """Inserts calls in front of a node and gives each the placement that follows from its operands."""

    def __init__(self, rewriter: Rewriter, node: fx.Node) -> None:
        self._rewriter = rewriter
        self._node = node
        self._axes = _axes([tensor_type(operand) for operand in tensor_operands(node)])
        self._held: dict[tuple[fx.Node, TensorType], fx.Node] = {}

    def emit(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        call = self._rewriter.insert(target, args, kwargs, before=self._node, sources=(self._node,))
        operands = tensor_operands(call)
        wanted = [tensor_type(operand) for operand in operands]
        result = tensor_type(call)
        for axis in self._axes:
            strategy = self._strategy(call, axis)
            wanted = [k.with_placement(axis, p) for k, p in zip(wanted, strategy.operands, strict=True)]
            (placed,) = strategy.results
            assert placed is not None
            result = result.with_placement(axis, placed)
        moved = [self.in_placement(operand, kind, call) for operand, kind in zip(operands, wanted, strict=True)]
        self._rewriter.set_arguments(call, *map_operands(call, moved))
        self._rewriter.set_type(call, result)
        return call

    def in_placement(self, value: fx.Node, kind: TensorType, user: fx.Node) -> fx.Node:
        if tensor_type(value) == kind:
            return value
        if (value, kind) not in self._held:
            self._held[value, kind] = self._rewriter.insert(
                dialect.reshard, (value,), before=user, sources=(self._node,), type=kind
            )
        return self._held[value, kind]

    def _strategy(self, call: fx.Node, axis: str) -> Strategy:
        """The one that takes the operands as they are, or else with the fewest sums completed."""
        have = [tensor_type(operand).placement(axis) for operand in tensor_operands(call)]
        results = result_types(call)
        options = [replicated(len(have), results)]
        rule = rule_of(call)
        if rule is not None:
            layouts = [
                [[p.layout] if isinstance(p, Shard) and p.dim == dim else [] for dim in range(len(expr))]
                for p, expr in zip(have, rule.operands, strict=True)
            ]
            options += rule.strategies([*layouts, *([[] for _ in kind.shape] for kind in results if kind is not None)])
        options = [s for s in options if not s.expanded]
        best = min(options, key=lambda s: _distance(have, s.operands))
        if _distance(have, best.operands) == math.inf:
            raise ShardingError(
                f"the expansion of {target_name(self._node.target)} calls {target_name(call.target)}, "
                f"which cannot take its operands along {axis!r} as {have}",
                hint="an expansion reduces sharded dims by sums alone",
            )
        return best


def _distance(have: Sequence[Placement], want: Sequence[Placement]) -> float:
    """How many operands must move; infinite where one would have to be gathered."""
    moved = 0.0
    for held, wanted in zip(have, want, strict=True):
        if held != wanted:
            reduced = isinstance(held, Partial) and isinstance(wanted, Replicate)
            cut = isinstance(held, Replicate) and isinstance(wanted, Shard)
            moved += 1 if reduced or cut else math.inf
    return moved


def _axes(kinds: Sequence[TensorType]) -> list[str]:
    """The axes that place any of the operands, outer ones of a dim before inner ones."""
    dims = [axis for kind in kinds for dim in kind.dims if dim for axis in dim.axes]
    return list(dict.fromkeys([*dims, *(axis for kind in kinds for axis in kind.partial)]))
