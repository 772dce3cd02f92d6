"""Ops that pick elements by index tensors: the indexed dim is whole, index and other dims are parallel."""

from __future__ import annotations

import torch
from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder
from ..graph import bind, dim_index, operand_type
from .define import broadcast, broadcast_shape, define, operand_shapes, or_empty, result_shape, whole_rule

TABLE = ((0,),)
"""Elements are picked, not changed: partial sums of what is picked from pass."""


def embedding_rule(node: fx.Node) -> FactorRule:
    """``v c, … -> … c``."""
    table, indices = operand_shapes(node)
    builder = RuleBuilder()
    rows, channels = builder.whole(table[0]), builder.factor(table[1])
    batch = builder.dims(indices)
    return builder.rule([[rows, channels], batch], [[*batch, channels]], linear=TABLE)


def index_rule(node: fx.Node) -> FactorRule:
    """``x[:, i, j]``: indexed dims are whole; the broadcast index dims stand where NumPy puts them."""
    arguments = bind(node)
    indices = list(arguments["indices"])
    shape = operand_shapes(node)[0]
    given = [dim for dim, index in enumerate(indices) if index is not None]
    kinds = [operand_type(indices[dim]) for dim in given]
    if any(not kind.dtype.is_signed and kind.dtype.itemsize == 1 for kind in kinds) or not given:
        return whole_rule(node)  # boolean masks give data-dependent shapes
    builder = RuleBuilder()
    out = result_shape(node)
    adjacent = given == list(range(given[0], given[-1] + 1))
    index_rank = max(len(kind.shape) for kind in kinds)
    position = given[0] if adjacent else 0
    index_shape = out[position : position + index_rank]
    index_dims = builder.dims(index_shape)
    operand: list[DimExpr] = [
        builder.whole(size) if d in given else builder.factor(size) for d, size in enumerate(shape)
    ]
    rest = [expr for d, expr in enumerate(operand) if d not in given]
    result = [*rest[:position], *index_dims, *rest[position:]]
    picks = [broadcast(kind.shape, index_dims, index_shape) for kind in kinds]
    return builder.rule([operand, *picks], [result], linear=TABLE)


def index_select_rule(node: fx.Node) -> FactorRule:
    shape, (count,) = operand_shapes(node)
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    index = builder.factor(count)
    operand = [builder.whole(shape[dim]) if d == dim else e for d, e in enumerate(shared)]
    result = [index if d == dim else e for d, e in enumerate(shared)]
    return builder.rule([operand, [index]], [result], linear=TABLE)


def gather_rule(node: fx.Node) -> FactorRule:
    """``gather``: dims other than the gathered one are shared where index and operand agree in size."""
    shape, index = operand_shapes(node)
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    result = builder.dims(index)
    operand = [result[d] if d != dim and size == index[d] else builder.whole(size) for d, size in enumerate(shape)]
    result = [e if d == dim or shape[d] == index[d] else builder.whole(index[d]) for d, e in enumerate(result)]
    return builder.rule([operand, result], [result], linear=TABLE)


def scatter_rule(node: fx.Node) -> FactorRule:
    """``scatter``: the written dim is whole; the others are shared where all operands agree in size."""
    shapes = operand_shapes(node)
    dim = dim_index(bind(node)["dim"], len(shapes[0]))
    builder = RuleBuilder()
    shared: dict[int, DimExpr] = {
        d: builder.factor(size)
        for d, size in enumerate(shapes[0])
        if d != dim and all(s[d] == size for s in shapes[1:])
    }
    operands = [[shared[d] if d in shared else builder.whole(size) for d, size in enumerate(s)] for s in shapes]
    return builder.rule(operands, [operands[0]])


def index_put_rule(node: fx.Node) -> FactorRule:
    """``x[i, j] = v``: indexed dims and the indices are whole. A mask of its own dims, with one value, is parallel."""
    indices = list(bind(node)["indices"])
    shapes = operand_shapes(node)
    shape, values = shapes[0], shapes[-1]
    given = [dim for dim, index in enumerate(indices) if index is not None]
    kinds = [operand_type(indices[dim]) for dim in given]
    masks = [kind for kind in kinds if kind.dtype in (torch.bool, torch.uint8)]
    builder = RuleBuilder()
    if masks:
        covered = len(masks[0].shape)
        if len(kinds) > 1 or given != [0] or len(values) > len(shape) - covered:
            return whole_rule(node)
        dims = builder.dims(shape)
        rest = broadcast(values, dims[covered:], shape[covered:])
        return builder.rule([dims, dims[:covered], rest], [dims])
    dims = [builder.whole(size) if d in given else builder.factor(size) for d, size in enumerate(shape)]
    adjacent = given == list(range(given[0], given[-1] + 1))
    position = given[0] if adjacent else 0
    picked = broadcast_shape(*(kind.shape for kind in kinds))
    free = [d for d in range(len(shape)) if d not in given]
    written: list[DimExpr] = [dims[d] for d in free]
    written[position:position] = [builder.whole(size) for size in picked]
    full = [shape[d] for d in free]
    full[position:position] = picked
    picks = [[builder.whole(size) for size in kind.shape] for kind in kinds]
    return builder.rule([dims, *picks, broadcast(values, written, full)], [dims])


def index_write_rule(node: fx.Node) -> FactorRule:
    """``index_add``, ``index_copy`` and ``index_fill``: the written dim and its index are whole."""
    shape, index, *source = operand_shapes(node)
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    dims = [builder.whole(size) if d == dim else builder.factor(size) for d, size in enumerate(shape)]
    count = [builder.whole(size) for size in index]
    written = [[builder.whole(s[dim]) if d == dim else e for d, e in enumerate(dims)] if s else [] for s in source]
    return builder.rule([dims, count, *written], [dims])


def bucket_rule(node: fx.Node) -> FactorRule:
    """``bucketize`` and ``searchsorted`` in one row of boundaries: every value for itself."""
    arguments = bind(node)
    rows_first = "sorted_sequence" in arguments
    shapes = operand_shapes(node)
    boundaries, values = shapes if rows_first else shapes[::-1]
    if len(boundaries) != 1:
        return whole_rule(node)
    builder = RuleBuilder()
    dims, row = builder.dims(values), [builder.whole(boundaries[0])]
    return builder.rule([row, dims] if rows_first else [dims, row], [dims])


def take_rule(node: fx.Node) -> FactorRule:
    """``take``: any element of the source for each index."""
    source, index = operand_shapes(node)
    builder = RuleBuilder()
    picked = builder.dims(index)
    return builder.rule([[builder.whole(size) for size in source], picked], [picked], linear=TABLE)


def member_rule(node: fx.Node) -> FactorRule:
    """``isin``: every element for itself, among all test elements."""
    elements, tests = operand_shapes(node)
    builder = RuleBuilder()
    dims = builder.dims(elements)
    return builder.rule([dims, [builder.whole(size) for size in tests]], [dims])


def grid_sampler_rule(node: fx.Node) -> FactorRule:
    """``b c …, b … n -> b c …``: batch, channels and the points that are sampled are parallel."""
    source, grid = operand_shapes(node)
    builder = RuleBuilder()
    batch, channels, *points = builder.dims((*source[:2], *grid[1:-1]))
    image = [builder.whole(size) for size in source[2:]]
    return builder.rule(
        [[batch, channels, *image], [batch, *points, builder.whole(grid[-1])]], [[batch, channels, *points]]
    )


def meshgrid_rule(node: fx.Node) -> FactorRule:
    """Result n is operand n, expanded over the dims of the others; ``xy`` swaps the first two dims of the grid."""
    shapes = operand_shapes(node)
    builder = RuleBuilder()
    grid = [builder.factor(shape[0]) if shape else ((),) for shape in shapes]
    operands = [[expr] if shape else [] for expr, shape in zip(grid, shapes, strict=True)]
    if bind(node).get("indexing", "ij") == "xy":
        grid[:2] = grid[1::-1]
    return builder.rule(operands, [grid for _ in shapes])


def one_hot_rule(node: fx.Node) -> FactorRule:
    """``… -> … n``. Without a number of classes that number follows from the values."""
    if bind(node)["num_classes"] < 0:
        return whole_rule(node)
    builder = RuleBuilder()
    batch = builder.dims(operand_shapes(node)[0])
    return builder.rule([batch], [[*batch, builder.whole(result_shape(node)[-1])]])


def take_along_rule(node: fx.Node) -> FactorRule:
    """``gather`` whose other dims broadcast."""
    shape, index = operand_shapes(node)
    if bind(node)["dim"] is None:
        return whole_rule(node)
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    result = builder.dims(result_shape(node))
    operand = [builder.whole(size) if d == dim else ((),) if size == 1 else result[d] for d, size in enumerate(shape)]
    return builder.rule([operand, broadcast(index, result, result_shape(node))], [result], linear=TABLE)


define("one_hot.default", one_hot_rule)
define("take_along_dim.default", take_along_rule)
define("embedding.default", embedding_rule)
define("index.Tensor", index_rule)
define("index_select.default", index_select_rule)
define("gather.default", gather_rule)
define(
    "scatter.src scatter.value scatter.reduce scatter.value_reduce scatter_add.default scatter_reduce.two", scatter_rule
)
define("index_put.default", index_put_rule)
define("index_add.default index_copy.default index_fill.int_Scalar index_fill.int_Tensor", index_write_rule)
define("take.default", take_rule)
define("isin.Tensor_Tensor", member_rule)
define("bucketize.Tensor searchsorted.Tensor", bucket_rule)
define("grid_sampler.default grid_sampler_2d.default grid_sampler_3d.default", grid_sampler_rule, localize=or_empty)
define("meshgrid.default meshgrid.indexing", meshgrid_rule)
