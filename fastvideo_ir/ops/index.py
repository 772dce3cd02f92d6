"""Ops that pick elements by index tensors: the indexed dim is whole, index and other dims are parallel."""

from __future__ import annotations

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder
from ..graph import bind, dim_index, operand_type
from .define import broadcast, define, operand_shapes, result_shape, whole_rule

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
define("scatter.src scatter.value scatter_add.default scatter_reduce.two", scatter_rule)
define("meshgrid.default meshgrid.indexing", meshgrid_rule)
