"""Contractions: the contracted factor is summed, so that sharding it leaves a partial sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import fx

from ..factors import DimExpr, FactorKind, FactorRule, RuleBuilder
from ..graph import bind, dim_index
from .define import broadcast, define, operand_shapes, or_empty, result_shape, torch_flops, whole_rule


def linear_rule(node: fx.Node) -> FactorRule:
    """``b s i, o i, o -> b s o``. The bias is an addend: under a sharded ``i`` it must be added once, not P times."""
    shapes = operand_shapes(node)
    builder = RuleBuilder()
    batch = builder.dims(shapes[0][:-1])
    contracted = builder.summed(shapes[0][-1])
    out = builder.dims(shapes[1][:-1])
    operands = [[*batch, contracted], [*out, contracted]]
    if len(shapes) == 3:
        return builder.rule([*operands, out], [[*batch, *out]], linear=((0, 2), (1, 2)), addends=(2,))
    return builder.rule(operands, [[*batch, *out]], linear=((0,), (1,)))


def matmul_rule(node: fx.Node) -> FactorRule:
    """``… m k, … k n -> … m n`` with broadcast batch dims; one-dim operands lose their own dim."""
    left, right = operand_shapes(node)
    builder = RuleBuilder()
    contracted = builder.summed(left[-1])
    rows = builder.factor(left[-2]) if len(left) > 1 else None
    columns = builder.factor(right[-1]) if len(right) > 1 else None
    out = result_shape(node)
    batch_shape = out[: len(out) - (rows is not None) - (columns is not None)]
    batch = builder.dims(batch_shape)
    a = broadcast(left[:-2], batch, batch_shape) + ([rows] if rows is not None else []) + [contracted]
    b = [*broadcast(right[:-2], batch, batch_shape), contracted, columns] if columns is not None else [contracted]
    result = batch + [e for e in (rows, columns) if e is not None]
    return builder.rule([a, b], [result], linear=((0,), (1,)))


def addmm_rule(node: fx.Node) -> FactorRule:
    """``addmm`` and ``baddbmm``: the first operand is an addend and broadcasts to the result."""
    addend, left, _ = operand_shapes(node)
    out = result_shape(node)
    builder = RuleBuilder()
    result = builder.dims(out)
    contracted = builder.summed(left[-1])
    a = [*result[:-1], contracted]
    b = [*result[:-2], contracted, result[-1]]
    return builder.rule([broadcast(addend, result, out), a, b], [result], linear=((0, 1), (0, 2)), addends=(0,))


def einsum_letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """One letter a dim, for every operand and the result: dots become digits, counted from the last dim."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    names = []
    longest = ""
    for letters, rank in zip(inputs.split(","), ranks, strict=True):
        hidden = rank - len(letters.replace("...", "")) if "..." in letters else 0
        dots = "".join(chr(ord("0") + position) for position in reversed(range(hidden)))
        longest = max(longest, dots, key=len)
        names.append(letters.replace("...", dots))
    if not arrow:
        named = "".join(letter for letters in names for letter in letters if letter.isalpha())
        output = "..." + "".join(sorted(letter for letter in set(named) if named.count(letter) == 1))
    return names, output.replace("...", longest)


def einsum_rule(node: fx.Node) -> FactorRule:
    """One factor per letter: letters that the result lacks are summed, letters on a diagonal are whole."""
    shapes = operand_shapes(node)
    names, output = einsum_letters(bind(node)["equation"], [len(shape) for shape in shapes])
    sizes: dict[str, int] = {}
    for letters, shape in zip(names, shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    diagonal = {letter for letters in names for letter in letters if letters.count(letter) > 1}
    builder = RuleBuilder()
    factors: dict[str, DimExpr] = {}
    for letter, size in sizes.items():
        kind = FactorKind.PARALLEL if letter in output else FactorKind.SUM
        factors[letter] = builder.factor(size, FactorKind.WHOLE if letter in diagonal else kind)
    operands = [
        [factors[letter] if size == sizes[letter] else ((),) for letter, size in zip(letters, shape, strict=True)]
        for letters, shape in zip(names, shapes, strict=True)
    ]
    linear = [(n,) for n in range(len(operands))]
    return builder.rule(operands, [[factors[letter] for letter in output]], linear=linear)


def inner_rule(node: fx.Node) -> FactorRule:
    """``… k, … k -> … …``."""
    left, right = operand_shapes(node)
    builder = RuleBuilder()
    if not left or not right:
        return whole_rule(node)
    contracted = builder.summed(left[-1])
    rows, columns = builder.dims(left[:-1]), builder.dims(right[:-1])
    return builder.rule([[*rows, contracted], [*columns, contracted]], [[*rows, *columns]], linear=((0,), (1,)))


def tensordot_rule(node: fx.Node) -> FactorRule:
    """The listed dims are contracted in pairs; the others follow, left ones first."""
    arguments = bind(node)
    left, right = operand_shapes(node)
    builder = RuleBuilder()
    mine = [dim_index(dim, len(left)) for dim in arguments["dims_self"]]
    theirs = [dim_index(dim, len(right)) for dim in arguments["dims_other"]]
    summed = [builder.summed(left[dim]) for dim in mine]
    a = [summed[mine.index(d)] if d in mine else builder.factor(size) for d, size in enumerate(left)]
    b = [summed[theirs.index(d)] if d in theirs else builder.factor(size) for d, size in enumerate(right)]
    result = [e for d, e in enumerate(a) if d not in mine] + [e for d, e in enumerate(b) if d not in theirs]
    return builder.rule([a, b], [result], linear=((0,), (1,)))


def addbmm_rule(node: fx.Node) -> FactorRule:
    """``m n, b m k, b k n -> m n``: batches are summed as well."""
    addend, (batch, rows, contracted), (*_, columns) = operand_shapes(node)
    out = result_shape(node)
    builder = RuleBuilder()
    b, k = builder.summed(batch), builder.summed(contracted)
    result = builder.dims((rows, columns))
    left, right = [b, result[0], k], [b, k, result[1]]
    return builder.rule([broadcast(addend, result, out), left, right], [result], linear=((0, 1), (0, 2)), addends=(0,))


def addr_rule(node: fx.Node) -> FactorRule:
    """``m n, m, n -> m n``."""
    addend, (rows,), (columns,) = operand_shapes(node)
    builder = RuleBuilder()
    result = builder.dims((rows, columns))
    a = broadcast(addend, result, (rows, columns))
    return builder.rule([a, [result[0]], [result[1]]], [result], linear=((0, 1), (0, 2)))


def addmv_rule(node: fx.Node) -> FactorRule:
    """``m, m k, k -> m``."""
    addend, (rows, contracted), _ = operand_shapes(node)
    if addend != (rows,):
        return whole_rule(node)  # an empty product with a broadcast addend has the wrong shape in PyTorch
    builder = RuleBuilder()
    m, k = builder.factor(rows), builder.summed(contracted)
    return builder.rule([[m], [m, k], [k]], [[m]], linear=((0, 1), (0, 2)), addends=(0,))


def outer_rule(node: fx.Node) -> FactorRule:
    """``a, b -> a b``."""
    builder = RuleBuilder()
    (rows,), (columns,) = operand_shapes(node)
    a, b = builder.factor(rows), builder.factor(columns)
    return builder.rule([[a], [b]], [[a, b]], linear=((0,), (1,)))


def linear_flops(node: fx.Node) -> int:
    """Two per multiply-add; the bias is not counted, as in ``torch.utils.flop_counter``."""
    shapes = operand_shapes(node)
    return 2 * math.prod(shapes[0]) * math.prod(shapes[1][:-1])


def every_factor_flops(rule: Callable[[fx.Node], FactorRule]) -> Callable[[fx.Node], int]:
    """Two per iteration over all factors of a rule."""
    return lambda node: 2 * math.prod(factor.size for factor in rule(node).factors)


def contraction_flops(node: fx.Node) -> int:
    """Two per iteration over all factors of the op's rule."""
    return every_factor_flops(einsum_rule if "equation" in bind(node) else matmul_rule)(node)


define("linear.default", linear_rule, flops=linear_flops)
define(
    "matmul.default linalg_matmul.default mm.default bmm.default mv.default dot.default vdot.default",
    matmul_rule,
    flops=contraction_flops,
)
define("inner.default", inner_rule, flops=every_factor_flops(inner_rule))
define("tensordot.default", tensordot_rule, flops=every_factor_flops(tensordot_rule))
define("addmv.default", addmv_rule, localize=or_empty, flops=every_factor_flops(addmv_rule))
define("addmm.default baddbmm.default", addmm_rule, flops=torch_flops)
define("addbmm.default", addbmm_rule, flops=every_factor_flops(addbmm_rule))
define("addr.default", addr_rule)
define("_int_mm.default", matmul_rule, flops=contraction_flops, localize=or_empty)
define("einsum.default", einsum_rule, flops=contraction_flops)
define("outer.default ger.default", outer_rule)
