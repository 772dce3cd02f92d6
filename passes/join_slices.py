"""``join-slices``: a tensor that is cut into slices, which are then joined again, is left whole.

Blocks over one sequence of text and video often return the two apart, and the next block joins them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, dim_index, is_getitem, result_types
from fastvideo_ir.ops.define import aten

_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default)


@dataclass(frozen=True)
class _Slice:
    """``[start, stop)`` of ``source`` along ``dim``."""

    source: fx.Node
    dim: int
    start: int
    stop: int


class JoinSlices(ir.Pass):
    """Stands behind planning, which may divide the slices otherwise than what they were cut from; those stay."""

    name = "join-slices"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            whole = _whole(node)
            if whole is not None and ir.tensor_type(whole) == ir.tensor_type(node):
                rewriter.replace(node, whole)
        rewriter.erase_dead()


def _whole(node: fx.Node) -> fx.Node | None:
    """What ``node`` joins all slices of, in order."""
    if node.target is not aten.cat.default:
        return None
    dim = dim_index(bind(node)["dim"], len(ir.tensor_type(node).shape))
    slices = [_slice(part) for part in bind(node)["tensors"]]
    source, reached = None, 0
    for piece in slices:
        if piece is None or piece.dim != dim or piece.start != reached or piece.source is not (source or piece.source):
            return None
        source, reached = piece.source, piece.stop
    return source if source is not None and ir.tensor_type(source).shape[dim] == reached else None


def _slice(node: fx.Node) -> _Slice | None:
    if node.target is aten.slice.Tensor:
        arguments = bind(node)
        source = arguments["self"]
        shape = ir.tensor_type(source).shape
        dim = dim_index(arguments["dim"], len(shape))
        start, stop, step = slice(arguments["start"], arguments["end"], arguments["step"]).indices(shape[dim])
        return _Slice(source, dim, start, stop) if step == 1 else None
    if not is_getitem(node):
        return None
    row, number = node.args
    assert isinstance(row, fx.Node) and isinstance(number, int)
    if row.target not in _SPLITS:
        return None
    arguments = bind(row)
    source = arguments["self"]
    dim = dim_index(arguments["dim"], len(ir.tensor_type(source).shape))
    sizes = [kind.shape[dim] for kind in result_types(row) if kind is not None]
    return _Slice(source, dim, sum(sizes[:number]), sum(sizes[: number + 1]))
