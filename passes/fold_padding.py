"""``fold-padding``: what pads both sides of a spatial dim becomes the padding of the convolution that reads it.

Models write the padding of a causal convolution out, since time is padded on one side alone. Height and width then
need no second tensor, and a convolution that pads itself can be divided over these dims. Zeros are padding of any
convolution; one that is to repeat the border becomes ``fv.conv_replicate``.
"""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, tensor_operands
from fastvideo_ir.ops.conv import Convolution, conv_replicate
from fastvideo_ir.ops.define import aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_REPEATED = (aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
_PADS = (aten.constant_pad_nd.default, aten.pad.default, *_REPEATED)


class FoldPadding(ir.Pass):
    """Leaves to the pad what is not alike on both sides."""

    name = "fold-padding"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            found = _pad_below(node)
            if found is not None:
                _fold(rewriter, node, *found)


def _pad_below(node: fx.Node) -> tuple[fx.Node, bool] | None:
    """The pad that a convolution with a batch dim reads, and whether it repeats the border; None where neither fits."""
    if node.target not in _CONVOLUTIONS:
        return None
    source, weight = tensor_operands(node)[:2]
    if source.target not in _PADS or len(ir.tensor_type(source).shape) != len(ir.tensor_type(weight).shape):
        return None
    arguments = bind(source)
    mode = arguments.get("mode", "replicate" if source.target in _REPEATED else "constant")
    if mode == "replicate":
        pads_itself = any(Convolution.of(node, ir.tensor_type(weight).shape[2:]).padding)
        return None if pads_itself else (source, True)
    return (source, False) if mode == "constant" and not arguments["value"] else None


def _fold(rewriter: ir.Rewriter, node: fx.Node, pad: fx.Node, repeated: bool) -> None:
    (source,), operands = tensor_operands(pad), tensor_operands(node)
    conv = Convolution.of(node, ir.tensor_type(operands[1]).shape[2:])
    rank = len(conv.kernel)
    bound = bind(pad)
    amounts = list(bound["pad"] if "pad" in bound else bound["padding"])  # the last dim comes first
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
        mode = "replicate" if repeated else "constant"
        source = rewriter.insert(aten.pad.default, (source, amounts, mode), before=node, sources=(pad, node))
    bias = operands[2] if len(operands) == 3 else None
    arguments = (source, operands[1], bias, conv.stride, padding, conv.dilation, conv.groups)
    assert callable(node.target)
    rewriter.replace_with(node, conv_replicate if repeated else node.target, arguments, sources=(pad, node))
    if not pad.users:
        rewriter.erase(pad)
