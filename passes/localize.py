"""``localize``: turns global shape arguments into those of one rank, and placement ops into local ops and transfers.

Ranks may differ: what only rank 0 may run stands in its program alone, and the others receive the results.
"""

from __future__ import annotations

import fastvideo_ir as ir
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.ops import RankView
from fastvideo_ir.ops.attention import is_ring
from fastvideo_ir.ops.conv import conv_halo

from .first_rank import keep_on_first_rank
from .local_collectives import Expansion
from .local_halo import HaloExpansion
from .local_ring import RingExpansion


class Localize(ir.Pass):
    """Gives the program a rank. Types stay global; arguments become local.

    Attributes:
        rank: whose program it becomes.
    """

    name = "localize"
    needs = ir.Stage.COMMUNICATING
    reaches = ir.Stage.LOCAL

    rank: int = 0

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        program.rank = self.rank
        view = RankView(program.mesh, program.coordinates)
        for node in list(program.nodes):
            if isinstance(node.target, ir.dialect.PlacementOp):
                Expansion(rewriter, node).expand()
                continue
            if is_ring(node):
                RingExpansion(rewriter, node).expand()
                continue
            if node.target is conv_halo:
                HaloExpansion(rewriter, node, view).expand()
                continue
            if runs_on_first_rank(node):
                keep_on_first_rank(rewriter, node)
                continue
            op = ir.ops.of(node)
            if op is None or op.localize is None:
                continue
            target, args, kwargs = op.localize(node, view)
            if target is not node.target:
                rewriter.set_target(node, target)
            rewriter.set_arguments(node, args, kwargs)


def localize(program: ir.Program, rank: int) -> ir.Program:
    """A copy of ``program`` for one rank."""
    local = program.copy()
    ir.run_passes(local, [Localize(rank=rank)])
    return local
