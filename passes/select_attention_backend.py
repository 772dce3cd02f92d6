"""``select-attention-backend``: rewrites every ``fv.attention`` to the op of one backend."""

from __future__ import annotations

import torch

import fastvideo_ir as ir

from ..backends import attention


class SelectAttentionBackend(ir.Pass):
    """A backend that was named and cannot run is an error with its reason; ``auto`` takes the first exact one that can.

    Attributes:
        backend: a registered name, or ``auto``.
        device: type of the device that the program will run on.
    """

    name = "select-attention-backend"
    needs = ir.Stage.CANONICAL

    backend: str = attention.AUTO
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            if node.target is torch.ops.fv.attention.default:
                chosen = attention.choose(attention.AttentionSite.of(node, self.device), self.backend)
                rewriter.set_target(node, attention.op_of(chosen.backend))
