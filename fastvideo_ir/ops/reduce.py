"""Reductions, softmax, scans and sorts: what is reduced is whole unless the reduction is, or follows from, a sum."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from ..factors import DimExpr, FactorKind, FactorRule, RuleBuilder
from ..graph import bind, dim_index, operand_type, tensor_operands
from . import statistics
from .define import define, operand_shapes, present_results, reduced_dims, result_shape, whole_rule


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
    return replace(_reduced(node, FactorKind.SUM), linear=((0,),))


def reduce_rule(node: fx.Node) -> FactorRule:
    """Any other reduction needs its dims whole."""
    return _reduced(node, FactorKind.WHOLE)


def statistic_rule(node: fx.Node) -> FactorRule:
    """A reduction that follows from sums, of real numbers."""
    kind = operand_type(tensor_operands(node)[0])
    return _reduced(node, FactorKind.WHOLE if kind.dtype.is_complex else FactorKind.STATISTIC)


def norm_rule(node: fx.Node) -> FactorRule:
    """The norms of order one and two follow from sums."""
    return statistic_rule(node) if statistics.norm_order(node) in (1, 2) else reduce_rule(node)


def mean_rule(node: fx.Node) -> FactorRule:
    """Linear, but the local mean of a piece is no partial sum: it takes the global count."""
    return replace(_reduced(node, FactorKind.STATISTIC), linear=((0,),))


def count_rule(node: fx.Node) -> FactorRule:
    """Counts add up over a sharded dim, but not over addends."""
    return _reduced(node, FactorKind.SUM)


def _reduced(node: fx.Node, kind: FactorKind) -> FactorRule:
    shape = operand_shapes(node)[0]
    builder = RuleBuilder()
    reduced = {d: builder.factor(shape[d], kind) for d in reduced_dims(node, len(shape))}
    operand, result = _reduction(node, builder, reduced)
    return builder.rule([operand], [result for _ in present_results(node)])


def scan_rule(node: fx.Node) -> FactorRule:
    """Cumulative sums are linear besides."""
    return replace(along_dim_rule(node), linear=((0,),))


def along_dim_rule(node: fx.Node) -> FactorRule:
    """Same shape in and out, one dim whole: softmax, cumulative products, sort."""
    shape = operand_shapes(node)[0]
    if not shape:
        return whole_rule(node)
    touched = reduced_dims(node, len(shape))
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
define("nansum.default count_nonzero.default count_nonzero.dim_IntList", count_rule)
define("mean.default mean.dim", mean_rule, expansion=statistics.mean)
define(
    """
    var.correction std.correction var.dim std.dim var_mean.correction var_mean.dim std_mean.dim std_mean.correction
    var.default std.default var_mean.default std_mean.default
    """,
    statistic_rule,
    expansion=statistics.variance,
)
define(
    "norm.Scalar norm.ScalarOpt_dtype norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype linalg_vector_norm.default",
    norm_rule,
    expansion=statistics.vector_norm,
)
define("all.default all.dim all.dims any.default any.dim any.dims", statistic_rule, expansion=statistics.any_or_all)
define(
    """
    amax.default amin.default max.default min.default max.dim min.dim argmax.default argmin.default
    prod.default prod.dim_int aminmax.default nanmean.default median.default
    kthvalue.default linalg_norm.default special_logsumexp.default logsumexp.default median.dim
    """,
    reduce_rule,
)
define(
    """
    softmax.int _softmax.default _safe_softmax.default log_softmax.int _log_softmax.default special_softmax.default
    cumprod.default cummax.default cummin.default logcumsumexp.default sort.default
    sort.stable argsort.default
    """,
    along_dim_rule,
)
define("cumsum.default", scan_rule)
define("topk.default", top_rule)
define("tril.default triu.default", last_two_rule)
