"""``pack-collectives``: neighbours of one kind share one exchange (q, k and v go together)."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.types import TupleType


class PackCollectives(ir.Pass):
    """Moves collectives of one op, axis and dtype down to the last of them, as long as nobody needs a result before."""

    name = "pack-collectives"
    needs = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        groups: list[list[fx.Node]] = []
        open_groups: dict[tuple[Any, ...], list[fx.Node]] = {}
        for node in program.nodes:
            needed = _collectives_read_by(node)
            open_groups = {k: g for k, g in open_groups.items() if not needed.intersection(g)}
            if node.target in ir.dialect.COLLECTIVES:
                key = (node.target, node.args[1], ir.tensor_type(tensor_operands(node)[0]).dtype)
                if key not in open_groups:
                    open_groups[key] = []
                    groups.append(open_groups[key])
                open_groups[key].append(node)
        for group in groups:
            if len(group) > 1:
                _pack(rewriter, group)


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
