"""``expand-statistics``: norms and means over sharded dims become local ops and reductions of small statistics."""

from __future__ import annotations

import fastvideo_ir as ir
from fastvideo_ir.expansion import expand, is_expanded


class ExpandStatistics(ir.Pass):
    """Writes out every op whose reduced dim is sharded; all others keep their one kernel."""

    name = "expand-statistics"
    needs = ir.Stage.PLACED

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            if is_expanded(node):
                expand(rewriter, node)
