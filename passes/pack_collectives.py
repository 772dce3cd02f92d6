"""``pack-collectives``: neighbours of one kind share one exchange (q, k and v go together)."""

from __future__ import annotations

import operator
from collections.abc import Hashable

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.types import TupleType

NEAR = 48
"""Calls within which an independent collective is pulled forward. A model's next block is further away."""


class PackCollectives(ir.Pass):
    """Packs collectives of one op, axis and dtype into the last of them, as long as nobody needs a result before.

    One that is near and does not depend on an earlier one is pulled forward first, with what it is computed from: the
    norms of queries and keys stand one behind the other, and their sums need not.
    """

    name = "pack-collectives"
    needs = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        _bring_together(rewriter)
        groups: list[list[fx.Node]] = []
        open_groups: dict[Hashable, list[fx.Node]] = {}
        for node in program.nodes:
            needed = _collectives_read_by(node)
            open_groups = {k: g for k, g in open_groups.items() if not needed.intersection(g)}
            if node.target in ir.dialect.COLLECTIVES:
                key = _kind(node)
                if key not in open_groups:
                    open_groups[key] = []
                    groups.append(open_groups[key])
                open_groups[key].append(node)
        for group in groups:
            if len(group) > 1:
                _pack(rewriter, group)


def _kind(node: fx.Node) -> Hashable:
    return node.target, node.args[1], ir.tensor_type(tensor_operands(node)[0]).dtype


def _bring_together(rewriter: ir.Rewriter) -> None:
    nodes = [node for node in rewriter.program.nodes if node.op == "call_function"]
    moved: set[fx.Node] = set()
    for number, first in enumerate(nodes):
        if first.target not in ir.dialect.COLLECTIVES or first in moved:
            continue
        after = first
        dependent = {first}
        waiting: list[fx.Node] = []
        for node in nodes[number + 1 : number + 1 + NEAR]:
            if node in moved:
                continue
            if not dependent.isdisjoint(node.all_input_nodes):
                dependent.add(node)
            elif node.target not in ir.dialect.COLLECTIVES:
                waiting.append(node)
            elif _kind(node) == _kind(first):
                for needed in [*_behind(node, waiting), node]:
                    rewriter.move(needed, after=after)
                    after = needed
                    moved.add(needed)
                waiting = [other for other in waiting if other not in moved]
                dependent.add(node)
            else:
                dependent.add(node)  # other exchanges keep their place, and so does what they feed


def _behind(node: fx.Node, candidates: list[fx.Node]) -> list[fx.Node]:
    """Those of ``candidates``, which are in graph order, that ``node`` is computed from."""
    needed = {node}
    for other in reversed(candidates):
        if not needed.isdisjoint(other.users):
            needed.add(other)
    return [other for other in candidates if other in needed]


def _collectives_read_by(node: fx.Node) -> set[fx.Node]:
    """Collectives whose results ``node`` computes with; taking an element out of a row is no use yet."""
    if node.target is operator.getitem:
        return set()
    rows = [operand.args[0] for operand in node.all_input_nodes if operand.target is operator.getitem]
    return {row for row in rows if isinstance(row, fx.Node) and row.target in ir.dialect.COLLECTIVES}


def _pack(rewriter: ir.Rewriter, group: list[fx.Node]) -> None:
    last = group[-1]
    operands = [operand for node in group for operand in tensor_operands(node)]
    kinds = tuple(kind for node in group for kind in result_types(node))
    assert callable(last.target)
    row = rewriter.insert(last.target, (operands, last.args[1]), before=last, sources=group, type=TupleType(kinds))
    offset = 0
    anchor = row
    for node in group:
        for user in list(node.users):
            number = user.args[1]
            assert isinstance(number, int)
            kind = kinds[offset + number]
            element = rewriter.insert(
                operator.getitem, (row, offset + number), after=anchor, sources=(user,), type=kind
            )
            anchor = element
            rewriter.replace(user, element)
        offset += len(result_types(node))
        rewriter.erase(node)
