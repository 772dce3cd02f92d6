"""``fuse-linear-gelu``: a linear layer whose only use is a tanh GELU becomes ``fv.linear_gelu``."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.ops.define import aten

from ..backends import fused


class FuseLinearGelu(ir.Pass):
    """Saves a pass over the widest activation of every feed-forward layer."""

    name = "fuse-linear-gelu"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            linear = _linear_below(node)
            if linear is not None:
                rewriter.replace_with(node, fused.linear_gelu_op, linear.args, sources=(linear, node))
                rewriter.erase(linear)


def _linear_below(node: fx.Node) -> fx.Node | None:
    """The linear layer with a bias that only ``node``, a tanh GELU, reads."""
    if node.target is not aten.gelu.default or node.kwargs.get("approximate") != "tanh":
        return None
    (linear,) = node.args
    assert isinstance(linear, fx.Node)
    fits = linear.target is aten.linear.default and len(linear.args) == 3 and isinstance(linear.args[2], fx.Node)
    return linear if fits and len(linear.users) == 1 else None
