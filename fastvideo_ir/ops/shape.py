"""Ops that rearrange dims: reshape, permute, expand, repeat. They change no values, so partial sums pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder, product
from ..graph import bind, dim_index, tensor_operands
from .define import aten, broadcast, define, operand_shapes, result_shape, whole_rule, with_shape_argument
from .registry import RankView, Trait

LINEAR = ((0,),)
MATRIX_TRANSPOSES = (aten.mT.default, aten.mH.default, aten.adjoint.default)
"""Transposes of the last two dims; the other ones without arguments reverse all."""
Localized = tuple[Any, tuple[Any, ...], dict[str, Any]]


def common_factors(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Groups of dims of two shapes with equal products, in order; None for empty tensors.

    ``(6, 35) -> (2, 3, 35)`` gives ``[([0], [0, 1]), ([1], [2])]``. Dims of size one join a group of their own.
    """
    if 0 in source:
        return None
    groups: list[tuple[list[int], list[int]]] = []
    left = right = 0
    while left < len(source) or right < len(target):
        group: tuple[list[int], list[int]] = ([], [])
        a = b = 1
        while True:
            if a == b and (group[0] or group[1]):
                break
            if a <= b and left < len(source) and not (a == b and source[left] == 1 and group[1]):
                a *= source[left]
                group[0].append(left)
                left += 1
            elif right < len(target):
                b *= target[right]
                group[1].append(right)
                right += 1
            elif left < len(source):
                a *= source[left]
                group[0].append(left)
                left += 1
            else:
                break
        groups.append(group)
    return groups


def reshape_rule(node: fx.Node) -> FactorRule:
    """Dims that merge or split share factors, found by walking both shapes at once."""
    source, target = operand_shapes(node)[0], result_shape(node)
    groups = common_factors(source, target)
    if groups is None:
        return whole_rule(node)
    builder = RuleBuilder()
    left: dict[int, DimExpr] = {}
    right: dict[int, DimExpr] = {}
    for before, after in groups:
        fine = _refine([source[d] for d in before], [target[d] for d in after])
        if fine is None:
            for dim in before:
                left[dim] = builder.whole(source[dim])
            for dim in after:
                right[dim] = builder.whole(target[dim])
            continue
        sizes, cuts_before, cuts_after = fine
        factors = [builder.factor(size) for size in sizes]
        for dim, (low, high) in zip(before, cuts_before, strict=True):
            left[dim] = product(*factors[low:high])
        for dim, (low, high) in zip(after, cuts_after, strict=True):
            right[dim] = product(*factors[low:high])
    operand = [left[dim] for dim in range(len(source))]
    result = [right[dim] for dim in range(len(target))]
    return builder.rule([operand], [result], linear=LINEAR)


def _refine(
    before: list[int], after: list[int]
) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]] | None:
    """Common refinement of two factorisations of one number; None where they interlock (4×3 against 3×4)."""

    def strides(sizes: list[int]) -> list[int]:
        result, stride = [], 1
        for size in reversed(sizes):
            stride *= size
            result.append(stride)
        return result[::-1]

    cuts = sorted({*strides(before), *strides(after), 1}, reverse=True)
    sizes = []
    for high, low in itertools.pairwise(cuts):
        if high % low:
            return None
        sizes.append(high // low)

    def spans(shape: list[int]) -> list[tuple[int, int]]:
        result, position = [], 0
        for size in shape:
            start, count = position, 1
            while count < size:
                count *= sizes[position]
                position += 1
            result.append((start, position))
        return result

    return sizes, spans(before), spans(after)


def permute_rule(node: fx.Node) -> FactorRule:
    builder = RuleBuilder()
    operand = builder.dims(operand_shapes(node)[0])
    order = _order(node, len(operand))
    return builder.rule([operand], [[operand[dim] for dim in order]], linear=LINEAR)


def _order(node: fx.Node, rank: int) -> list[int]:
    arguments = bind(node)
    order = list(range(rank))
    if "dims" in arguments and isinstance(arguments["dims"], (list, tuple)):
        return [dim_index(dim, rank) for dim in arguments["dims"]]
    if "source" in arguments:
        source, destination = arguments["source"], arguments["destination"]
        pairs = [(source, destination)] if isinstance(source, int) else list(zip(source, destination, strict=True))
        moved = {dim_index(d, rank): dim_index(s, rank) for s, d in pairs}
        rest = iter([dim for dim in order if dim not in moved.values()])
        return [moved[dim] if dim in moved else next(rest) for dim in order]
    if "dim0" in arguments or "axis0" in arguments:
        names = ("dim0", "dim1") if "dim0" in arguments else ("axis0", "axis1")
        first, second = (dim_index(arguments[name], rank) for name in names)
        order[first], order[second] = order[second], order[first]
        return order
    if node.target in MATRIX_TRANSPOSES:
        return [*order[:-2], *order[:-3:-1]]
    return order[::-1]


def expand_rule(node: fx.Node) -> FactorRule:
    """A dim of size one that grows is parallel in the result and absent from the operand."""
    source, target = operand_shapes(node)[0], result_shape(node)
    builder = RuleBuilder()
    result = builder.dims(target)
    offset = len(target) - len(source)
    operand = [result[offset + d] if s == target[offset + d] else ((),) for d, s in enumerate(source)]
    return builder.rule([operand], [result], linear=LINEAR)


def repeat_rule(node: fx.Node) -> FactorRule:
    """``repeat`` tiles: the copies are the major factor."""
    source, target = operand_shapes(node)[0], result_shape(node)
    padded = (1,) * (len(target) - len(source)) + source
    if 0 in source or 0 in target:
        return whole_rule(node)
    builder = RuleBuilder()
    copies = builder.dims([t // s for s, t in zip(padded, target, strict=True)])
    inner = builder.dims(padded)
    result = [product(c, i) for c, i in zip(copies, inner, strict=True)]
    return builder.rule([inner[len(target) - len(source) :]], [result], linear=LINEAR)


def repeat_interleave_rule(node: fx.Node) -> FactorRule:
    """``repeat_interleave`` by one number: the copies are the minor factor. Without a dim it flattens first."""
    arguments = bind(node)
    source = operand_shapes(node)[0]
    builder = RuleBuilder()
    operand = builder.dims(source)
    copies = builder.whole(arguments["repeats"])
    if arguments["dim"] is None:
        result = [product(*operand, copies)]
    else:
        dim = dim_index(arguments["dim"], len(source))
        result = [product(e, copies) if d == dim else e for d, e in enumerate(operand)]
    return builder.rule([operand], [result], linear=LINEAR)


def complex_view_rule(node: fx.Node) -> FactorRule:
    """``view_as_complex`` and ``view_as_real``: the pair dim is whole, the rest is parallel."""
    source, target = operand_shapes(node)[0], result_shape(node)
    builder = RuleBuilder()
    shared = builder.dims(source[: min(len(source), len(target))])
    operand = [*shared, builder.whole(2)] if len(source) > len(target) else list(shared)
    result = [*shared, builder.whole(2)] if len(target) > len(source) else list(shared)
    return builder.rule([operand], [result], linear=LINEAR)


def bit_view_rule(node: fx.Node) -> FactorRule:
    """``view`` as another dtype: where that has another width, elements of the last dim are taken apart or together."""
    source, target = operand_shapes(node)[0], result_shape(node)
    builder = RuleBuilder()
    operand = builder.dims(source)
    if source == target:
        return builder.rule([operand], [operand])
    last = builder.whole(source[-1])
    return builder.rule([[*operand[:-1], last]], [[*operand[:-1], builder.whole(target[-1])]])


def broadcast_tensors_rule(node: fx.Node) -> FactorRule:
    """Every operand is expanded to one shape."""
    shapes, target = operand_shapes(node), result_shape(node)
    builder = RuleBuilder()
    dims = builder.dims(target)
    return builder.rule([broadcast(shape, dims, target) for shape in shapes], [dims for _ in shapes])


def channel_shuffle_rule(node: fx.Node) -> FactorRule:
    """``b (g c) … -> b (c g) …``; the number of groups is an argument, so they are whole."""
    shape = operand_shapes(node)[0]
    groups = bind(node)["groups"]
    builder = RuleBuilder()
    batch, *rest = builder.dims((shape[0], *shape[2:]))
    group, channels = builder.whole(groups), builder.factor(shape[1] // groups)
    before, after = product(group, channels), product(channels, group)
    return builder.rule([[batch, before, *rest]], [[batch, after, *rest]], linear=LINEAR)


def expand_as_rule(node: fx.Node) -> FactorRule:
    """The second operand gives its shape alone; it is sharded like the result."""
    rule = expand_rule(node)
    result = rule.results[0]
    assert result is not None
    return replace(rule, operands=(*rule.operands, result))


def reshape_as_rule(node: fx.Node) -> FactorRule:
    """The second operand gives its shape alone; it is sharded like the result."""
    rule = reshape_rule(node)
    result = rule.results[0]
    assert result is not None
    return replace(rule, operands=(rule.operands[0], result))


def localize_reshape(node: fx.Node, rank: RankView) -> Localized:
    """By explicit shape: a piece may have other strides than the whole, and other dims of size one."""
    return aten.reshape.default, (node.args[0], list(rank.shape(node))), {}


def localize_repeat_interleave(node: fx.Node, rank: RankView) -> Localized:
    """Without ``output_size``, which is global; it only spares a device synchronisation that numbers do not need."""
    arguments = bind(node)
    return node.target, (arguments["self"], arguments["repeats"], arguments["dim"]), {}


def localize_repeat(node: fx.Node, rank: RankView) -> Localized:
    """Each rank tiles its piece as often as its result holds it."""
    operand = tensor_operands(node)[0]
    target, source = rank.shape(node), rank.shape(operand)
    padded = (1,) * (len(target) - len(source)) + source
    times = [t // s if s else 1 for s, t in zip(padded, target, strict=True)]
    return node.target, (operand, times), {}


define(
    """
    view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int
    ravel.default squeeze.default squeeze.dim squeeze.dims unsqueeze.default
    """,
    reshape_rule,
    traits=[Trait.VIEW],
    localize=localize_reshape,
)
define(
    """
    permute.default transpose.int swapaxes.default swapdims.default movedim.int movedim.intlist moveaxis.int
    moveaxis.intlist t.default numpy_T.default matrix_H.default mT.default mH.default adjoint.default
    """,
    permute_rule,
    traits=[Trait.VIEW],
)
define("expand.default broadcast_to.default", expand_rule, traits=[Trait.VIEW], localize=with_shape_argument("size"))
define("expand_as.default", expand_as_rule, traits=[Trait.VIEW])
define("view_as.default reshape_as.default", reshape_as_rule, traits=[Trait.VIEW], localize=localize_reshape)
define("repeat.default tile.default", repeat_rule, localize=localize_repeat)
define("repeat_interleave.self_int", repeat_interleave_rule, localize=localize_repeat_interleave)
define("view.dtype", bit_view_rule, traits=[Trait.VIEW])
define("broadcast_tensors.default", broadcast_tensors_rule, traits=[Trait.VIEW])
define("channel_shuffle.default", channel_shuffle_rule)
define("view_as_complex.default view_as_real.default", complex_view_rule, traits=[Trait.VIEW])
