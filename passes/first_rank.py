"""What the first rank computes for all: its program keeps the call and sends the results; the others receive them."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem
from fastvideo_ir.ops.define import aten
from fastvideo_ir.types import TupleType


def keep_on_first_rank(rewriter: ir.Rewriter, node: fx.Node) -> None:
    """Put a broadcast behind every result of ``node``, which stays in the program of rank 0 alone."""
    program = rewriter.program
    if program.mesh.num_ranks == 1:
        return
    is_row = isinstance(ir.value_type(node), TupleType)
    results = [user for user in node.users if is_getitem(user)] if is_row else [node]
    for result in results:
        if not result.users:
            continue
        mine = result if program.rank == 0 else empty(rewriter, ir.tensor_type(result), result)
        sent = rewriter.insert(ir.dialect.broadcast, (mine,), after=mine, sources=(node,), type=ir.tensor_type(result))
        rewriter.replace(result, sent, only=lambda user, sent=sent: user is not sent, erase=False)  # type: ignore[misc]
    if program.rank != 0:
        for result in (*results, node) if is_row else results:
            rewriter.erase(result)
        rewriter.erase_dead()


def empty(rewriter: ir.Rewriter, kind: ir.TensorType, before: fx.Node) -> fx.Node:
    """Memory for a value of this rank, without content."""
    program = rewriter.program
    shape = list(kind.local_shape(program.mesh, program.coordinates))
    arguments = {"dtype": kind.dtype, "device": ir.DEVICE}
    return rewriter.insert(aten.empty.memory_format, (shape,), arguments, before=before, sources=(before,), type=kind)
