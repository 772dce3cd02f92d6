"""``select-attention-backend``: rewrites every ``fv.attention`` to the op of one backend."""

from __future__ import annotations

from dataclasses import replace

import torch

import fastvideo_ir as ir

from ..backends import attention
from .planner.policy import policy_of


class SelectAttentionBackend(ir.Pass):
    """A backend that was named and cannot run is an error with its reason; ``auto`` takes the first exact one that can.

    Attributes:
        backend: a registered name, a backend with its options, or ``auto``.
        device: type of the device that the program will run on.
    """

    name = "select-attention-backend"
    needs = ir.Stage.CANONICAL

    backend: attention.Wish = attention.AUTO
    device: str = "cpu"

    @property
    def approximates(self) -> str | None:
        asked = attention.wished(self.backend)
        return None if asked is None or asked.exact else f"attention_backend={asked.name}"

    def exact(self) -> SelectAttentionBackend:
        return self if self._is_exact else replace(self, backend=attention.AUTO)

    @property
    def _is_exact(self) -> bool:
        asked = attention.wished(self.backend)
        return asked is None or asked.exact

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        ring = any(policy_of(axis).whole_heads for axis in program.mesh.names)
        for node in list(program.nodes):
            if node.target is torch.ops.fv.attention.default:
                chosen = attention.choose(attention.AttentionSite.of(node, self.device, ring), self.backend)
                rewriter.set_target(node, attention.op_of(chosen.backend))
