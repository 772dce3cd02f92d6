"""``fuse-cat-linear``: a linear layer over joined channels reads what is joined where it lies."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, dim_index
from fastvideo_ir.ops.define import aten

from ..backends import fused

_ALIGNED = 8
"""Channels of each part, in multiples of which GEMMs read columns of a weight at full speed."""
_LEAST_SAVED = 16 << 20
"""Bytes of traffic: what device memory moves while two more kernels are launched."""


class FuseCatLinear(ir.Pass):
    """Part of the default pipeline on GPUs. Saves writing and reading the joined tensor, where that is more than what
    the partial sums cost.

    Left alone where the channels are divided among ranks: each then joins only its own.
    """

    name = "fuse-cat-linear"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            joined = _joined_below(node)
            if joined is None:
                continue
            weight, bias = (*node.args[1:], None)[:2]
            rewriter.replace_with(node, fused.cat_linear_op, (bind(joined)["tensors"], weight, bias))
        rewriter.erase_dead()


def _joined_below(node: fx.Node) -> fx.Node | None:
    """The concatenation that a linear layer reads, where it had better not be made."""
    joined = node.args[0] if node.target is aten.linear.default else None
    if not isinstance(joined, fx.Node) or joined.target is not aten.cat.default:
        return None
    if any(user.target is not aten.linear.default or user.args[0] is not joined for user in joined.users):
        return None
    kind, out = ir.tensor_type(joined), ir.tensor_type(node)
    parts = [ir.tensor_type(part) for part in bind(joined)["tensors"]]
    last = len(kind.shape) - 1
    along_channels = dim_index(bind(joined)["dim"], len(kind.shape)) == last
    alike = all(part.dtype is kind.dtype and len(part.shape) == len(kind.shape) for part in parts)
    if not (along_channels and alike and all(part.shape[-1] % _ALIGNED == 0 for part in parts)):
        return None
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    if any(one.dims[last] is not None for one in (kind, *parts)) or ir.tensor_type(weight).dims[1] is not None:
        return None
    saved = 2 * kind.nbytes - 2 * (len(parts) - 1) * out.nbytes * len(joined.users)
    return joined if saved >= _LEAST_SAVED else None
