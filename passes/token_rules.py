"""Factor rules for following tokens through a program, where positions matter and no rank holds a piece of them."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import FactorRule, RuleBuilder, concatenation
from fastvideo_ir.ops.define import aten, operand_shapes
from fastvideo_ir.ops.slicing import slice_bounds


def token_rule(node: fx.Node) -> FactorRule | None:
    """The op's factor rule; where a part of a dim is written over, one that tells the part from what is beside it."""
    op = ir.ops.of(node) if node.op == "call_function" else None
    if op is None or op.rule is None:
        return None
    if node.target is aten.slice_scatter.default:
        dim, start, stop, step = slice_bounds(node)
        if step == 1 and start < stop:
            return _written_rule(operand_shapes(node)[0], dim, start, stop)
    return op.rule(node)


def _written_rule(shape: tuple[int, ...], dim: int, start: int, stop: int) -> FactorRule:
    """``(a + b + c), b -> (a + b + c)``: rows in their text, written over by rotated ones, stay where they are."""
    builder = RuleBuilder()
    shared = [builder.factor(1 if d == dim else size) for d, size in enumerate(shape)]
    sizes = (start, stop - start, shape[dim] - stop)
    parts = [builder.part(size) if size else None for size in sizes]
    whole = concatenation(*(part for part in parts if part is not None))
    written = parts[1]
    assert written is not None
    base = [whole if d == dim else expr for d, expr in enumerate(shared)]
    source = [written if d == dim else expr for d, expr in enumerate(shared)]
    return builder.rule([base, source], [base])
