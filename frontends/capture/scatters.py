"""Scatters that together overwrite a whole tensor become one ``stack`` or ``cat``.

``out = empty_like(x); out[..., 0::2] = a; out[..., 1::2] = b`` reads nothing of ``out``: it interleaves a and b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fastvideo_ir.program import info

from .builder import GraphBuilder

aten = torch.ops.aten


@dataclass(frozen=True)
class _Write:
    """One scatter: indices ``range(start, stop, step)`` of ``dim`` become ``source``."""

    source: fx.Node
    dim: int
    indices: range
    drops_dim: bool


def merge_scatters(builder: GraphBuilder) -> dict[fx.Node, fx.Node]:
    """Rewrite every chain of scatters that covers its base; what it leaves unused is dead code.

    Returns:
        the new nodes by the scatters whose place they have taken.
    """
    replaced: dict[fx.Node, fx.Node] = {}
    for node in list(builder.graph.nodes):
        if _write_of(builder, node) is None:
            continue
        writes = _covering_writes(builder, node)
        if writes is None:
            continue
        with builder.graph.inserting_before(node):
            builder.location = info(node).location or builder.location
            replaced[node] = _join(builder, writes)
        node.replace_all_uses_with(replaced[node])
    return replaced


def _write_of(builder: GraphBuilder, node: fx.Node) -> _Write | None:
    if node.target not in (aten.slice_scatter.default, aten.select_scatter.default):
        return None
    arguments: list[Any] = [*node.args, None, None, None, None]
    whole, source, *rest = arguments
    shape = builder.tensor(whole).shape
    dim = (rest[0] or 0) % len(shape)
    if node.target is aten.select_scatter.default:
        index = rest[1] % shape[dim]
        return _Write(source, dim, range(index, index + 1), drops_dim=True)
    indices = range(shape[dim])[slice(rest[1], rest[2], rest[3])]
    return _Write(source, dim, indices, drops_dim=False)


def _covering_writes(builder: GraphBuilder, last: fx.Node) -> list[_Write] | None:
    """The writes, last to first, that partition one dim of the base; None where something of the base remains."""
    writes: list[_Write] = []
    covered: set[int] = set()
    node: Any = last
    while True:
        write = _write_of(builder, node)
        if write is None or (writes and (write.dim, write.drops_dim) != (writes[0].dim, writes[0].drops_dim)):
            return None
        if covered.intersection(write.indices):
            return None
        covered.update(write.indices)
        writes.append(write)
        if len(covered) == builder.tensor(last).shape[write.dim]:
            return writes if _is_regular(writes) else None
        node = node.args[0]


def _is_regular(writes: list[_Write]) -> bool:
    """Whether the writes are consecutive blocks, or equal pieces that interleave."""
    if all(write.indices.step == 1 for write in writes):
        return True
    return {(write.indices.step, len(write.indices)) for write in writes} == {(len(writes), len(writes[0].indices))}


def _join(builder: GraphBuilder, writes: list[_Write]) -> fx.Node:
    """Emit the tensor that the writes make up."""
    ordered = sorted(writes, key=lambda write: write.indices.start)
    sources = [write.source for write in ordered]
    dim = ordered[0].dim
    if ordered[0].drops_dim:
        return builder.emit(aten.stack.default, (sources, dim))
    if len(ordered) == 1:
        return sources[0]
    if all(write.indices.step == 1 for write in ordered):
        return builder.emit(aten.cat.default, (sources, dim))
    stacked = builder.emit(aten.stack.default, (sources, dim + 1))
    return builder.emit(aten.flatten.using_ints, (stacked, dim, dim + 1))
