"""``select-attention-backend``: rewrites every ``fv.attention`` to the op of one backend."""

from __future__ import annotations

from dataclasses import field, replace

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.restricted_attention import allowed_backends, awaits_backend

from ..backends import attention
from .planner.policy import policy_of


class SelectAttentionBackend(ir.Pass):
    """A backend that was named and cannot run is an error with its reason; ``auto`` takes the first exact one that can.

    Where the model's author has restricted an attention, it is one of theirs.

    Attributes:
        backend: a registered name, a backend with its options, or ``auto``.
        device: type of the device that the program will run on.
        fastest: measures backends, of which ``auto`` then takes the fastest; None: the first that is preferred.
    """

    name = "select-attention-backend"
    needs = ir.Stage.CANONICAL

    backend: attention.Wish = attention.AUTO
    device: str = "cpu"
    fastest: attention.Fastest | None = field(default=None, repr=False, compare=False)

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
            if awaits_backend(node):
                site = attention.AttentionSite.of(node, self.device, ring)
                chosen = attention.choose(site, self.backend, allowed_backends(node), self.fastest)
                arguments = bind(node)
                arguments.pop("backends", None)
                rewriter.set_target(node, attention.op_of(chosen.backend))
                rewriter.set_arguments(node, tuple(arguments.values()), {})
