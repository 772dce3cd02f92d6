"""``fuse-modulated-norm``: a norm, what is added before it and what scales and shifts it become one kernel.

Matched by what ops compute: a layer norm or RMS norm over the last dim; behind it a factor and an addend that have one
value per channel for all tokens (a weight, or the modulation of a sample); before it a sum, of which one side may be
multiplied by a gate of that kind. Nothing is rounded on the way, the sum neither where it is normalized, so that
results are closer to those in fp32 than the model's own.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.types import TupleType

from ..backends import fused
from .norms import (
    ADD,
    MULTIPLY,
    Norm,
    both_orders,
    erase_unread,
    is_cast,
    is_channels,
    is_pointwise,
    is_read_from_memory,
    match_norm,
    without_casts,
    without_widening,
)

_NARROWEST = 1024
"""Inductor holds rows up to this width in registers, as the kernel does; wider ones it reads twice."""
_WIDEST = 16384
_SHARE = 8
"""Factors and addends that are broadcast are at most this part of the operand; others are as costly to read as it."""


@dataclass(frozen=True)
class _Site:
    """A norm and its surroundings; the last of ``nodes`` yields the result."""

    norm: Norm
    nodes: tuple[fx.Node, ...]
    scale: fx.Node | None = None
    shift: fx.Node | None = None

    @property
    def end(self) -> fx.Node:
        return self.nodes[-1]


@dataclass(frozen=True)
class _Sum:
    """``x + y · gate``, and the calls that it is made of; the last one yields it."""

    x: fx.Node
    y: fx.Node
    gate: fx.Node | None
    nodes: tuple[fx.Node, ...] = field(default=())


class FuseModulatedNorm(ir.Pass):
    """Part of the default pipeline on GPUs. Rows of more than 1024 channels, which Inductor's code reads twice.

    A result that only pointwise ops read is left to the code generator, which computes it where they read it.
    """

    name = "fuse-modulated-norm"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        position = {node: number for number, node in enumerate(program.nodes)}
        for node in list(program.nodes):
            norm = match_norm(node) if node.users and _is_large(node) else None
            if norm is None:
                continue
            site = _extended(norm)
            if not is_read_from_memory(site.end) or not _reads_alone(site.nodes):
                continue
            total = _sum_below(norm.operand, site, position)
            if total is not None:
                position |= dict.fromkeys(_fuse_with_sum(rewriter, site, total), position[site.end])
            elif not is_pointwise(norm.operand) or not set(norm.operand.users) <= set(site.nodes):
                position[_fuse(rewriter, site)] = position[site.end]


def _is_large(node: fx.Node) -> bool:
    kind = ir.value_type(node) if node.op == "call_function" else None
    if not isinstance(kind, ir.TensorType) or len(kind.shape) != 3 or not kind.dtype.is_floating_point:
        return False
    return _NARROWEST < kind.shape[-1] <= _WIDEST and kind.dtype is not torch.float64


def _extended(norm: Norm) -> _Site:
    """The norm with the factor, the addend and the casts that alone read it."""
    site = _Site(norm, norm.nodes)
    while len(site.end.users) == 1:
        (user,) = site.end.users
        if is_cast(user) and ir.tensor_type(user).dtype is not torch.float64:
            site = replace(site, nodes=(*site.nodes, user))
            continue
        other = next((right for left, right in _operands(user) if left is site.end), None)
        if other is None or not _is_broadcast(other, norm.operand) or not _like(user, norm.operand):
            break
        if user.target in MULTIPLY and site.shift is None and site.scale is None:
            site = replace(site, nodes=(*site.nodes, user), scale=other)
        elif user.target in MULTIPLY and site.shift is None and _is_free_row(site.scale, site.norm):
            weighted = replace(site.norm, weight=site.scale)
            site = replace(site, norm=weighted, nodes=(*site.nodes, user), scale=other)
        elif user.target in ADD and site.shift is None:
            site = replace(site, nodes=(*site.nodes, user), shift=other)
        else:
            break
    return site


def _operands(node: fx.Node) -> Iterable[tuple[fx.Node, fx.Node]]:
    return both_orders(node) if node.target in (*MULTIPLY, *ADD) else ()


def _is_free_row(value: fx.Node | None, norm: Norm) -> bool:
    """Whether ``value``, one number per channel, can be the weight of a norm that has none."""
    return norm.weight is None and norm.bias is None and is_channels(value, norm.operand)


def _like(node: fx.Node, operand: fx.Node) -> bool:
    return ir.tensor_type(node).shape == ir.tensor_type(operand).shape


def _is_broadcast(value: fx.Node, operand: fx.Node) -> bool:
    """Whether ``value`` has all channels of ``operand``, is small beside it, and of a type that the kernel takes."""
    kind, like = ir.tensor_type(value), ir.tensor_type(operand)
    fits = kind.dtype.is_floating_point and kind.dtype is not torch.float64 and kind.shape[-1:] == like.shape[-1:]
    return fits and kind.numel * _SHARE <= like.numel


def _reads_alone(nodes: tuple[fx.Node, ...]) -> bool:
    """Whether nobody else reads what is computed on the way. Casts may have other readers: they are made once more."""
    inside = set(nodes)
    return all(is_cast(node) or set(node.users) <= inside for node in nodes[:-1])


def _sum_below(operand: fx.Node, site: _Site, position: dict[fx.Node, int]) -> _Sum | None:
    """The sum that is normalized, where it can move to the norm: nobody reads it before."""
    total, casts = without_casts(operand)
    if total.target not in ADD or any(len(cast.users) > 1 for cast in (total, *casts) if cast is not operand):
        return None
    inside, end = set(site.nodes), position[site.end]
    if any(user not in inside and position[user] < end for user in operand.users):
        return None
    for left, right in both_orders(total):
        found = _gated(right, operand)
        if found is not None:
            x, more = without_widening(left)
            y, gate, nodes = found
            return _checked(_Sum(x, y, gate, (*more, *nodes, total, *casts)), operand)
    for left, right in both_orders(total):
        (x, more), (y, nodes) = without_widening(left), without_widening(right)
        return _checked(_Sum(x, y, None, (*more, *nodes, total, *casts)), operand)
    return None


def _gated(value: fx.Node, operand: fx.Node) -> tuple[fx.Node, fx.Node, tuple[fx.Node, ...]] | None:
    """What is multiplied by what gate, where the sum alone reads the product."""
    product, casts = without_casts(value)
    if product.target not in MULTIPLY or any(len(node.users) > 1 for node in (product, *casts)):
        return None
    for branch, gate in both_orders(product):
        if _is_broadcast(gate, operand) and _like(branch, operand):
            inner, more = without_widening(branch)
            return inner, gate, (*more, product, *casts)
    return None


def _checked(total: _Sum, operand: fx.Node) -> _Sum | None:
    """The sum, unless its terms are computed where they are read, or are of another shape or type."""
    inside = set(total.nodes)
    for term in (total.x, total.y):
        kind = ir.tensor_type(term)
        fits = kind.shape == ir.tensor_type(operand).shape and kind.dtype.is_floating_point
        if not fits or kind.dtype is torch.float64 or (is_pointwise(term) and set(term.users) <= inside):
            return None
    return total


def _fuse(rewriter: ir.Rewriter, site: _Site) -> fx.Node:
    norm, kind = site.norm, ir.tensor_type(site.end)
    arguments = (norm.operand, norm.weight, norm.bias, site.scale, site.shift, norm.eps, norm.rms, kind.dtype)
    new = rewriter.replace_with(site.end, fused.modulated_norm_op, arguments, sources=(norm.nodes[-1], site.end))
    erase_unread(rewriter, site.nodes[:-1])
    return new


def _fuse_with_sum(rewriter: ir.Rewriter, site: _Site, total: _Sum) -> tuple[fx.Node, ...]:
    """Returns the calls that stand in the place of the site's end."""
    norm, end = site.norm, site.end
    kinds = ir.tensor_type(norm.operand), ir.tensor_type(end)
    arguments = (
        *(total.x, total.y, total.gate),
        *(norm.weight, norm.bias, site.scale, site.shift, norm.eps, norm.rms),
        *(kind.dtype for kind in kinds),
    )
    sources = (norm.operand, end)
    row = rewriter.insert(fused.add_norm_op, arguments, before=end, sources=sources, type=TupleType(kinds))
    first, second = (
        rewriter.insert(operator.getitem, (row, number), before=end, sources=(source,), type=kinds[number])
        for number, source in enumerate(sources)
    )
    rewriter.replace(end, second)
    inside = {*site.nodes, *total.nodes}
    rewriter.replace(norm.operand, first, only=lambda user: user not in inside, erase=False)
    erase_unread(rewriter, (*total.nodes, *site.nodes[:-1]))
    return row, first, second
