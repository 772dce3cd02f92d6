"""Ops that cut or join along a dim: the dim is a sum of terms, one per piece."""

from __future__ import annotations

import sys
from typing import Any

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder, concatenation
from ..graph import bind, dim_index, operand_type, result_types, tensor_operands
from ..layout import Layout
from .define import aten, define, operand_shapes, or_empty, result_shape, whole_rule
from .registry import RankView, Trait, target_name

LINEAR = ((0,),)
Localized = tuple[Any, tuple[Any, ...], dict[str, Any]]


def _cut_rule(shape: tuple[int, ...], dim: int, sizes: list[int], results: list[int]) -> FactorRule:
    """Cut ``dim`` into pieces of ``sizes``; the pieces numbered ``results`` are the results."""
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    parts = [builder.part(size) for size in sizes]

    def tensor(expr: DimExpr) -> list[DimExpr]:
        return [expr if d == dim else shared[d] for d in range(len(shape))]

    present = [part for part, size in zip(parts, sizes, strict=True) if size]
    operand = tensor(concatenation(*present))
    return builder.rule([operand], [tensor(parts[number]) for number in results], linear=LINEAR)


def slice_bounds(node: fx.Node) -> tuple[int, int, int, int]:
    """``(dim, start, stop, step)`` of a slice, clamped as ATen does."""
    arguments = bind(node)
    shape = operand_shapes(node)[0]
    dim = dim_index(arguments["dim"], len(shape))
    size = shape[dim]
    if "length" in arguments:
        start = dim_index(arguments["start"], size)
        return dim, start, start + arguments["length"], 1
    start = arguments["start"] if arguments["start"] is not None else 0
    stop = arguments["end"] if arguments["end"] is not None else sys.maxsize
    start = min(max(start + size if start < 0 else start, 0), size)
    stop = min(max(stop + size if stop < 0 else stop, start), size)
    return dim, start, stop, arguments.get("step", 1)


def slice_rule(node: fx.Node) -> FactorRule:
    """A slice with step one is one piece of a sum; a strided one needs its dim whole."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    dim, start, stop, step = slice_bounds(node)
    if step != 1:
        return _whole_dim_rule(shape, out, dim)
    if start == 0 and stop == shape[dim]:
        builder = RuleBuilder()
        same = builder.dims(shape)
        return builder.rule([same], [same], linear=LINEAR)
    if start == stop:
        return _whole_dim_rule(shape, out, dim)
    sizes = [start, stop - start, shape[dim] - stop]
    return _cut_rule(shape, dim, sizes, [1])


def _whole_dim_rule(shape: tuple[int, ...], out: tuple[int, ...], dim: int) -> FactorRule:
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    operand = [builder.whole(shape[dim]) if d == dim else e for d, e in enumerate(shared)]
    result = [builder.whole(out[dim]) if d == dim else e for d, e in enumerate(shared)]
    return builder.rule([operand], [result], linear=LINEAR)


def localize_slice(node: fx.Node, rank: RankView) -> Localized:
    """Start and length count this rank's elements of the pieces before and inside the slice."""
    operand = tensor_operands(node)[0]
    kind = operand_type(operand)
    dim, start, stop, step = slice_bounds(node)
    sharding = kind.dims[dim]
    if sharding is None:
        return aten.slice.Tensor, (operand, dim, start, stop, step), {}
    length = rank.shape(node)[dim]
    if stop - start == kind.shape[dim]:
        return aten.slice.Tensor, (operand, dim, 0, length, 1), {}
    before = _local_offset(sharding.layout, start, [(rank.mesh.size(a), rank.at[a]) for a in sharding.axes])
    return aten.slice.Tensor, (operand, dim, before, before + length, 1), {}


def _local_offset(layout: Layout, start: int, splits: list[tuple[int, int]]) -> int:
    parts = layout.split([start, layout.size - start])
    assert parts is not None, "the factor rule lets a slice start only where a segment does"
    return parts[0].local_size(splits)


def _piece_sizes(node: fx.Node) -> tuple[int, list[int]]:
    dim = dim_index(bind(node)["dim"], len(operand_shapes(node)[0]))
    return dim, [r.shape[dim] for r in result_types(node) if r is not None]


def split_rule(node: fx.Node) -> FactorRule:
    dim, sizes = _piece_sizes(node)
    return _cut_rule(operand_shapes(node)[0], dim, sizes, list(range(len(sizes))))


def localize_split(node: fx.Node, rank: RankView) -> Localized:
    """Pieces of one rank may differ in size: every split becomes one by sizes."""
    dim, _ = _piece_sizes(node)
    sizes = [r.local_shape(rank.mesh, rank.at)[dim] for r in result_types(node) if r is not None]
    return aten.split_with_sizes.default, (tensor_operands(node)[0], sizes, dim), {}


STACKED_ALONG = {"vstack": 0, "row_stack": 0, "hstack": 1, "column_stack": 1, "dstack": 2}


def stacks_rule(node: fx.Node) -> FactorRule:
    """``hstack`` and its kin join along a fixed dim, where operands have that dim already."""
    name = target_name(node.target).split(".")[1]
    if any(len(shape) <= max(STACKED_ALONG[name], 1) for shape in operand_shapes(node)):
        return whole_rule(node)
    return _join_rule(node, STACKED_ALONG[name])


def cat_rule(node: fx.Node) -> FactorRule:
    return _join_rule(node, dim_index(bind(node)["dim"], len(result_shape(node))))


def _join_rule(node: fx.Node, dim: int) -> FactorRule:
    shapes, out = operand_shapes(node), result_shape(node)
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(out)])
    operands: list[list[DimExpr]] = []
    parts: list[DimExpr] = []
    for shape in shapes:
        if len(shape) != len(out):  # ATen lets cat ignore 1-D empty tensors
            operands.append([((),) for _ in shape])
            continue
        part = builder.part(shape[dim]) if shape[dim] else ((),)
        if shape[dim]:
            parts.append(part)
        operands.append([part if d == dim else shared[d] for d in range(len(out))])
    joined = concatenation(*parts) if len(parts) > 1 else (parts[0] if parts else ((),))
    result = [joined if d == dim else shared[d] for d in range(len(out))]
    return builder.rule(operands, [result], linear=[tuple(range(len(shapes)))])


def stack_rule(node: fx.Node) -> FactorRule:
    """The new dim is whole: each rank has one element of it per operand."""
    shapes, out = operand_shapes(node), result_shape(node)
    dim = dim_index(bind(node)["dim"], len(out))
    builder = RuleBuilder()
    shared = builder.dims(shapes[0])
    new = builder.whole(out[dim])
    result = [*shared[:dim], new, *shared[dim:]]
    return builder.rule([shared for _ in shapes], [result], linear=[tuple(range(len(shapes)))])


def pad_sequence_rule(node: fx.Node) -> FactorRule:
    """Rows of their own lengths, stacked: lengths and the new dim are whole, the rest is parallel."""
    shapes, out = operand_shapes(node), result_shape(node)
    builder = RuleBuilder()
    rest = builder.dims(out[2:])
    operands = [[builder.whole(shape[0]), *rest] for shape in shapes]
    result = [builder.whole(out[0]), builder.whole(out[1]), *rest]
    return builder.rule(operands, [result])


def pick_rule(node: fx.Node) -> FactorRule:
    """``select`` and ``unbind`` take single elements of a dim: that dim is whole, the rest is parallel."""
    shape = operand_shapes(node)[0]
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    operand = [builder.whole(shape[dim]) if d == dim else e for d, e in enumerate(shared)]
    result = [e for d, e in enumerate(shared) if d != dim]
    return builder.rule([operand], [result for _ in result_types(node)], linear=LINEAR)


def overwrite_rule(node: fx.Node) -> FactorRule:
    """``slice_scatter`` and ``select_scatter``: the written dim is whole, the rest is parallel."""
    shape, source = operand_shapes(node)[:2]
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    shared = builder.dims([1 if d == dim else size for d, size in enumerate(shape)])
    base = [builder.whole(shape[dim]) if d == dim else e for d, e in enumerate(shared)]
    if len(source) == len(shape):
        written = [builder.whole(source[dim]) if d == dim else e for d, e in enumerate(shared)]
    else:
        written = [e for d, e in enumerate(shared) if d != dim]
    return builder.rule([base, written], [base], linear=((0, 1),))


def flip_rule(node: fx.Node) -> FactorRule:
    """``flip`` and ``roll``: the moved dims are whole."""
    shape = operand_shapes(node)[0]
    arguments = bind(node)
    moved = {dim_index(d, len(shape)) for d in arguments["dims"]} or set(range(len(shape)))
    builder = RuleBuilder()
    dims = [builder.whole(size) if d in moved else builder.factor(size) for d, size in enumerate(shape)]
    return builder.rule([dims], [dims], linear=LINEAR)


def turn_rule(node: fx.Node) -> FactorRule:
    """``rot90``: both dims are whole; they swap in odd turns."""
    arguments = bind(node)
    shape = operand_shapes(node)[0]
    first, second = (dim_index(dim, len(shape)) for dim in arguments["dims"])
    builder = RuleBuilder()
    operand = [builder.whole(size) if d in (first, second) else builder.factor(size) for d, size in enumerate(shape)]
    result = list(operand)
    if arguments["k"] % 2:
        result[first], result[second] = operand[second], operand[first]
    return builder.rule([operand], [result], linear=LINEAR)


def pad_rule(node: fx.Node) -> FactorRule:
    """Padded dims are whole, the others parallel. Linear unless a number other than zero is filled in."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    arguments = bind(node)
    amounts = arguments["pad"] if "pad" in arguments else arguments["padding"]
    padded = {len(shape) - 1 - n // 2 for n, amount in enumerate(amounts) if amount}
    builder = RuleBuilder()
    shared = {d: builder.factor(size) for d, size in enumerate(shape) if d not in padded}
    operand = [shared[d] if d in shared else builder.whole(size) for d, size in enumerate(shape)]
    result = [shared[d] if d in shared else builder.whole(size) for d, size in enumerate(out)]
    filled = arguments.get("value") if arguments.get("mode", "constant") == "constant" else None
    return builder.rule([operand], [result], linear=() if filled else LINEAR)


define("slice.Tensor narrow.default", slice_rule, traits=[Trait.VIEW], localize=localize_slice)
define(
    """
    split.Tensor split.sizes split_with_sizes.default chunk.default tensor_split.sections tensor_split.indices
    unsafe_split.Tensor unsafe_split_with_sizes.default unsafe_chunk.default
    """,
    split_rule,
    traits=[Trait.VIEW],
    localize=localize_split,
)
define("select.int unbind.int", pick_rule, traits=[Trait.VIEW])
define("cat.default concat.default concatenate.default", cat_rule)
define([f"{name}.default" for name in STACKED_ALONG], stacks_rule)
define("stack.default", stack_rule)
define("pad_sequence.default", pad_sequence_rule)
define("slice_scatter.default select_scatter.default", overwrite_rule)
define("flip.default roll.default", flip_rule)
define("rot90.default", turn_rule)
define(
    """
    constant_pad_nd.default pad.default reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default
    replication_pad1d.default replication_pad2d.default replication_pad3d.default
    """,
    pad_rule,
    localize=or_empty,
)
