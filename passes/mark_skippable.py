"""``mark-skippable``: finds the calls that a cache may leave out, once it is settled who talks to whom."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir import memory
from fastvideo_ir.ops import Trait, has_trait


class MarkSkippable(ir.Pass):
    """A call may be left out where its results reach nothing but the ``computed`` operand of ``fv.resume``.

    That is a matter of who reads what, whatever order passes have left the calls in: a value that is moved between
    ranks for a block, and read elsewhere too, is always computed. Calls that stand before the decision run anyway. All
    ranks get the same marks, so that they leave the same collectives out.
    """

    name = "mark-skippable"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        marked: set[fx.Node] = set()
        for node in reversed(list(program.nodes)):
            if node.op != "call_function" or not node.users or has_trait(node, Trait.RANDOM):
                continue
            if node.target not in memory.MEMORY_OPS and all(_feeds_resume(node, user, marked) for user in node.users):
                marked.add(node)
                rewriter.set_skippable(node)


def _feeds_resume(node: fx.Node, user: fx.Node, marked: set[fx.Node]) -> bool:
    if user.target is memory.resume:
        return user.args[0] is node and node not in user.args[1:]
    return user in marked
