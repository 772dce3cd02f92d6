"""Reductions, softmax, scans and sorts: what is reduced is whole unless the reduction is a plain sum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder
from ..graph import bind, dim_index
from .define import define, operand_shapes, present_results, result_shape, whole_rule


def _dims_argument(node: fx.Node, rank: int) -> set[int]:
    arguments = bind(node)
    given = next((arguments[name] for name in ("dim", "dims") if name in arguments), None)
    if given is None:
        return set(range(rank))
    dims: Iterable[int] = [given] if isinstance(given, int) else given
    return {dim_index(dim, rank) for dim in dims} or set(range(rank))


def _reduction(node: fx.Node, builder: RuleBuilder, reduced: dict[int, DimExpr]) -> tuple[list[DimExpr], list[DimExpr]]:
    shape, out = operand_shapes(node)[0], result_shape(node)
    operand = [reduced[d] if d in reduced else builder.factor(size) for d, size in enumerate(shape)]
    keep = len(out) == len(shape)
    result: list[DimExpr] = [
        ((),) if d in reduced else expr for d, expr in enumerate(operand) if keep or d not in reduced
    ]
    return operand, result


def sum_rule(node: fx.Node) -> FactorRule:
    """A sum over a sharded dim is a partial sum."""
    shape = operand_shapes(node)[0]
    builder = RuleBuilder()
    reduced = {d: builder.summed(shape[d]) for d in _dims_argument(node, len(shape))}
    operand, result = _reduction(node, builder, reduced)
    return builder.rule([operand], [result], linear=((0,),))


def reduce_rule(node: fx.Node) -> FactorRule:
    """Any other reduction needs its dims whole."""
    shape = operand_shapes(node)[0]
    builder = RuleBuilder()
    reduced = {d: builder.whole(shape[d]) for d in _dims_argument(node, len(shape))}
    operand, result = _reduction(node, builder, reduced)
    return builder.rule([operand], [result for _ in present_results(node)])


def mean_rule(node: fx.Node) -> FactorRule:
    """Linear, but the local mean of a piece is no partial sum: the reduced dims are whole."""
    shape = operand_shapes(node)[0]
    builder = RuleBuilder()
    reduced = {d: builder.whole(shape[d]) for d in _dims_argument(node, len(shape))}
    operand, result = _reduction(node, builder, reduced)
    return builder.rule([operand], [result], linear=((0,),))


def scan_rule(node: fx.Node) -> FactorRule:
    """Cumulative sums are linear besides."""
    return replace(along_dim_rule(node), linear=((0,),))


def along_dim_rule(node: fx.Node) -> FactorRule:
    """Same shape in and out, one dim whole: softmax, cumulative products, sort."""
    shape = operand_shapes(node)[0]
    if not shape:
        return whole_rule(node)
    touched = _dims_argument(node, len(shape))
    builder = RuleBuilder()
    dims = [builder.whole(size) if d in touched else builder.factor(size) for d, size in enumerate(shape)]
    return builder.rule([dims], [dims for _ in present_results(node)])


def top_rule(node: fx.Node) -> FactorRule:
    """``topk``: the searched dim is whole on both sides, with its own size in the results."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    operand = [builder.whole(shape[dim]) if d == dim else e for d, e in enumerate(shared)]
    result = [builder.whole(out[dim]) if d == dim else e for d, e in enumerate(shared)]
    return builder.rule([operand], [result for _ in present_results(node)])


def last_two_rule(node: fx.Node) -> FactorRule:
    """``tril`` and ``triu``: matrices are whole, batches of them parallel."""
    shape = operand_shapes(node)[0]
    builder = RuleBuilder()
    dims = [*builder.dims(shape[:-2]), *(builder.whole(size) for size in shape[-2:])]
    return builder.rule([dims], [dims], linear=((0,),))


define("sum.default sum.dim_IntList", sum_rule)
define("nansum.default", reduce_rule)
define("mean.default mean.dim", mean_rule)
define(
    """
    amax.default amin.default max.default min.default max.dim min.dim argmax.default argmin.default all.default all.dim
    any.default any.dim prod.default prod.dim_int var.correction std.correction var.dim std.dim var_mean.correction
    all.dims any.dims var_mean.dim std_mean.dim std_mean.correction aminmax.default nanmean.default median.default
    kthvalue.default norm.Scalar norm.ScalarOpt_dim_dtype linalg_norm.default special_logsumexp.default
    norm.ScalarOpt_dim linalg_vector_norm.default logsumexp.default count_nonzero.default median.dim
    """,
    reduce_rule,
)
define(
    """
    softmax.int _softmax.default log_softmax.int _log_softmax.default special_softmax.default cumprod.default
    cummax.default cummin.default logcumsumexp.default sort.default
    sort.stable argsort.default
    """,
    along_dim_rule,
)
define("cumsum.default", scan_rule)
define("topk.default", top_rule)
define("tril.default triu.default", last_two_rule)
