"""``fold-padding``: zeros on both sides of a spatial dim become the padding of the convolution that reads them.

Models write the padding of a causal convolution out, since time is padded on one side alone. The zeros of height and
width then need no tensor of their own, and a convolution that pads itself can be divided over these dims.
"""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, tensor_operands
from fastvideo_ir.ops.conv import Convolution
from fastvideo_ir.ops.define import aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


class FoldPadding(ir.Pass):
    """Leaves to the pad what is not alike on both sides."""

    name = "fold-padding"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            pad = _zeros_below(node)
            if pad is not None:
                _fold(rewriter, node, pad)


def _zeros_below(node: fx.Node) -> fx.Node | None:
    """The pad with zeros that a convolution with a batch dim reads."""
    if node.target not in _CONVOLUTIONS:
        return None
    source, weight = tensor_operands(node)[:2]
    batched = len(ir.tensor_type(source).shape) == len(ir.tensor_type(weight).shape)
    arguments = bind(source) if source.target in (aten.constant_pad_nd.default, aten.pad.default) else None
    if arguments is None or not batched or arguments.get("mode", "constant") != "constant" or arguments["value"]:
        return None
    return source


def _fold(rewriter: ir.Rewriter, node: fx.Node, pad: fx.Node) -> None:
    (source,), operands = tensor_operands(pad), tensor_operands(node)
    conv = Convolution.of(node, ir.tensor_type(operands[1]).shape[2:])
    rank = len(conv.kernel)
    amounts = list(bind(pad)["pad"])  # the last dim comes first
    amounts += [0] * (2 * rank - len(amounts))
    padding = list(conv.padding)
    for dim in range(rank):
        at = 2 * (rank - 1 - dim)
        before, after = amounts[at : at + 2]
        known = padding[dim]
        if before == after > 0 and known is not None:
            padding[dim] = known + before
            amounts[at : at + 2] = [0, 0]
    if padding == conv.padding:
        return
    if any(amounts):
        source = rewriter.insert(aten.constant_pad_nd.default, (source, amounts, 0), before=node, sources=(pad, node))
    bias = operands[2] if len(operands) == 3 else None
    arguments = (source, operands[1], bias, conv.stride, padding, conv.dilation, conv.groups)
    assert callable(node.target)
    rewriter.replace_with(node, node.target, arguments, sources=(pad, node))
    if not pad.users:
        rewriter.erase(pad)
