"""``fuse-norm-rotary``: a rotary embedding, with the norm of queries or keys before it, becomes one kernel.

Matched by what ops compute (:mod:`.rotary`), however the rotation is written. Written as ops, its pairs are read and
stored apart, and the norm before it reads the tensor once more. Nothing is rounded between the norm and the result, so
that results are closer to those in fp32 than the model's own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import tensor_operands
from fastvideo_ir.ops.define import aten

from ..backends import fused
from .norms import Norm, erase_unread, is_cast, is_pointwise, is_read_from_memory, match_weighted_norm, without_widening
from .rotary import Rotary, Table, match_rotary

_MOVES_ROWS = (aten.permute.default, aten.transpose.int, aten.unsqueeze.default)
_RESHAPES = (aten.reshape.default, aten.view.default, aten.unflatten.int)
_MOST_DIMS = 4


@dataclass(frozen=True)
class _Normalized:
    """A norm before a rotary embedding.

    Attributes:
        norm: over the last dim of its operand.
        joint: whether that dim is rows and channels of the embedding's operand.
        views: calls between the two that move rows alone, in their order.
    """

    norm: Norm
    joint: bool
    views: tuple[fx.Node, ...]


class FuseNormRotary(ir.Pass):
    """On CUDA alone. Without a norm it fuses only what a kernel of its own reads, and what stands in memory anyway."""

    name = "fuse-norm-rotary"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        packed: dict[Hashable, fx.Node] = {}
        for node in list(program.nodes):
            found = match_rotary(node) if node.users else None
            if found is None or not _is_closed(found.nodes, node) or not _is_supported(found):
                continue
            end = _with_cast(node)
            if ir.tensor_type(end).dtype is torch.float64:
                continue
            before = _norm_above(found)
            if before is None and not _is_worth_it_alone(found, end):
                continue
            if before is not None and not is_read_from_memory(end, or_by=(aten.cat.default,)):
                continue
            _fuse(rewriter, found, before, end, packed)
        rewriter.erase_dead()  # tables that were cut otherwise


def _is_closed(nodes: tuple[fx.Node, ...], result: fx.Node) -> bool:
    """Whether ``result`` alone is read from outside."""
    inside = set(nodes)
    return all(node is result or set(node.users) <= inside for node in nodes)


def _is_supported(found: Rotary) -> bool:
    kind = ir.tensor_type(found.operand)
    floats = kind.dtype.is_floating_point and kind.dtype is not torch.float64
    return floats and 2 <= len(kind.shape) <= _MOST_DIMS and fused.rotary_fits(kind.shape, joint=False)


def _with_cast(node: fx.Node) -> fx.Node:
    """The cast that alone reads ``node``, if there is one."""
    (user,) = node.users if len(node.users) == 1 else (node,)
    return user if is_cast(user) and ir.tensor_type(user).dtype is not torch.float64 else node


def _is_worth_it_alone(found: Rotary, end: fx.Node) -> bool:
    inside = set(found.nodes)
    computed_here = is_pointwise(found.operand) and set(found.operand.users) <= inside
    return is_read_from_memory(end) and not computed_here


def _norm_above(found: Rotary) -> _Normalized | None:
    """The norm of the operand, where the embedding alone reads it."""
    inside, value = set(found.nodes), found.operand
    shape = ir.tensor_type(value).shape
    views: list[fx.Node] = []
    joint = False
    while set(value.users) <= inside:
        inner, casts = without_widening(value)
        norm = match_weighted_norm(inner)
        if norm is not None:
            closed = _is_closed((*norm.nodes, *casts), norm.nodes[-1]) and set(inner.users) <= {*inside, *casts}
            fits = fused.rotary_fits(shape, joint)
            return _Normalized(norm, joint, tuple(reversed(views))) if closed and fits else None
        if not _keeps_rows(value):
            if views or not _splits_channels(value):
                return None
            joint = True
        elif joint:
            return None
        views.append(value)
        inside.add(value)
        (value,) = tensor_operands(value)
    return None


def _keeps_rows(node: fx.Node) -> bool:
    """Whether ``node`` is a view that leaves the last dim what it is."""
    if node.op != "call_function" or node.target not in (*_MOVES_ROWS, *_RESHAPES):
        return False
    (operand,) = tensor_operands(node)
    before, after = ir.tensor_type(operand).shape, ir.tensor_type(node).shape
    if node.target is aten.permute.default:
        order: Any = node.args[1]
        return bool(order[-1] in (-1, len(after) - 1))
    if node.target is aten.transpose.int:
        return not {-1, len(after) - 1} & set(node.args[1:])
    return before[-1:] == after[-1:] and after[-1] != 1


def _splits_channels(node: fx.Node) -> bool:
    """Whether ``node`` splits the last dim alone, into rows and channels."""
    if node.op != "call_function" or node.target not in _RESHAPES:
        return False
    (operand,) = tensor_operands(node)
    before, after = ir.tensor_type(operand).shape, ir.tensor_type(node).shape
    return after[:-2] == before[:-1] and len(after) == len(before) + 1


def _fuse(
    rewriter: ir.Rewriter, found: Rotary, before: _Normalized | None, end: fx.Node, packed: dict[Hashable, fx.Node]
) -> None:
    cos, sin = (_packed(rewriter, table, packed) for table in (found.cos, found.sin))
    dtype, x = ir.tensor_type(end).dtype, found.operand
    rest: tuple[Any, ...] = (None, None, "none", False, 0.0)
    used: tuple[fx.Node, ...] = ()
    if before is not None:
        norm = before.norm
        x = _viewed(rewriter, norm.operand, before.views, end)
        rest = (norm.weight, norm.bias, "rms" if norm.rms else "layer", before.joint, norm.eps)
        casts = without_widening(before.views[0].all_input_nodes[0] if before.views else found.operand)[1]
        used = (*norm.nodes, *casts, *before.views)
    sources = (found.operand, end)
    rewriter.replace_with(end, fused.norm_rotary_op, (x, cos, sin, *rest, found.interleaved, dtype), sources=sources)
    erase_unread(rewriter, (*found.nodes, *used))


def _viewed(rewriter: ir.Rewriter, value: fx.Node, views: tuple[fx.Node, ...], end: fx.Node) -> fx.Node:
    """``views`` of ``value`` instead of their own operand."""
    dtype = ir.tensor_type(value).dtype
    for view in views:
        kind = replace(ir.tensor_type(view), dtype=dtype)
        assert callable(view.target)
        arguments = (value, *view.args[1:])
        value = rewriter.insert(view.target, arguments, view.kwargs, before=end, sources=(view,), type=kind)
    return value


def _packed(rewriter: ir.Rewriter, table: Table, packed: dict[Hashable, fx.Node]) -> fx.Node:
    """The table with its values next to each other; one that is strided is copied once, behind what it is cut from."""
    node = table.node
    if table.part in ("real", "imaginary"):
        target, source = (aten.real.default if table.part == "real" else aten.imag.default), node
        arguments: tuple[Any, ...] = (source,)
        kind = replace(ir.tensor_type(node), dtype=ir.tensor_type(node).dtype.to_real())
    elif node.op == "call_function" and node.target is aten.slice.Tensor and node.args[4:5] not in ((), (1,)):
        (source,) = tensor_operands(node)
        target, arguments, kind = node.target, node.args, ir.tensor_type(node)
    else:
        return node
    key = (target, arguments)
    if key not in packed:
        anchor = source
        if source.op == "placeholder":
            anchor = rewriter.program.graph.find_nodes(op="placeholder")[-1]
        view = rewriter.insert(target, arguments, after=anchor, sources=(node,), type=kind)
        if kind.dtype is torch.float64:  # the kernel computes in fp32
            kind = replace(kind, dtype=torch.float32)
            view = rewriter.insert(aten.to.dtype, (view, kind.dtype), after=view, sources=(node,), type=kind)
        contiguous = {"memory_format": torch.contiguous_format}
        packed[key] = rewriter.insert(aten.clone.default, (view,), contiguous, after=view, sources=(node,), type=kind)
    return packed[key]
