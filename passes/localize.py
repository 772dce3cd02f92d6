"""``localize``: turns global shape arguments into those of one rank. Ranks may differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import tensor_operands
from fastvideo_ir.interpreter import placement_moves
from fastvideo_ir.ops import RankView
from fastvideo_ir.ops.define import aten


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
            if node.target in ir.dialect.LOCAL_PLACEMENTS:
                _localize_placement(rewriter, node)
                continue
            op = ir.ops.of(node)
            if op is None or op.localize is None:
                continue
            target, args, kwargs = op.localize(node, view)
            if target is not node.target:
                rewriter.set_target(node, target)
            rewriter.set_arguments(node, args, kwargs)


def _localize_placement(rewriter: ir.Rewriter, node: fx.Node) -> None:
    """Cuts become plain slices, and a value that is summed over an axis is held by the axis' first rank alone."""
    program = rewriter.program
    (move,) = placement_moves(program, node)
    (operand,) = tensor_operands(node)
    kind = ir.tensor_type(node)

    def insert(target: Callable[..., Any], args: Sequence[Any], yields: ir.TensorType = kind) -> fx.Node:
        return rewriter.insert(target, args, before=node, sources=(node,), type=yields)

    dim = move.scattered_dim
    if dim is None:
        new = operand if move.at[move.axis] == 0 else insert(aten.zeros_like.default, (operand,))
    else:
        bounds = move.own_parts(dim)
        if len(bounds) == 1:
            new = insert(aten.slice.Tensor, (operand, dim, *bounds[0]))
        else:  # one slice per segment; only all of them together are a shard of the whole
            shape = list(kind.local_shape(program.mesh, program.coordinates))
            parts = []
            for low, high in bounds:
                shape[dim] = high - low
                parts.append(
                    insert(aten.slice.Tensor, (operand, dim, low, high), ir.TensorType(kind.dtype, tuple(shape)))
                )
            new = insert(aten.cat.default, (parts, dim))
    rewriter.replace(node, new)


def localize(program: ir.Program, rank: int) -> ir.Program:
    """A copy of ``program`` for one rank."""
    local = program.copy()
    ir.run_passes(local, [Localize(rank=rank)])
    return local
