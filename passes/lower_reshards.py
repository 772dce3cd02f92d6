"""``lower-reshards``: turns each ``fv.reshard`` into local cuts and collectives, one axis at a time.

An attention whose keys are spread over an axis becomes a ring, a convolution over a sharded dim one with a halo.
"""

from __future__ import annotations

import operator

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.expansion import is_expanded
from fastvideo_ir.graph import bind, result_types, tensor_operands
from fastvideo_ir.ops.attention import ring_forms
from fastvideo_ir.ops.conv import conv_halo, with_halo
from fastvideo_ir.types import TupleType
from fastvideo_ir.verifier import rule_of, strategy_of

from .planner.moves import moves


class LowerReshards(ir.Pass):
    """Afterwards every exchange between ranks stands in the graph as one collective."""

    name = "lower-reshards"
    needs = ir.Stage.PLACED
    reaches = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            if is_expanded(node):
                raise ir.errors.InvalidArgumentError(  # its pieces alone would give the statistics of each piece
                    f"{ir.ops.target_name(node.target)} works along a sharded dim and has not been expanded",
                    hint="let 'expand-statistics' run before 'lower-reshards'",
                )
            if node.target is ir.dialect.reshard:
                (source,) = node.args
                assert isinstance(source, fx.Node)
                value = source
                for axis, kind in moves(ir.tensor_type(source), ir.tensor_type(node), program.mesh):
                    value = _move(rewriter, value, axis, kind, node)
                rewriter.replace(node, value)
            elif (over := _travels_over(node)) is not None:
                _make_ring(rewriter, node, over)
            elif edges := _reaches_over(node):
                _make_halo(rewriter, node, edges)


def _travels_over(node: fx.Node) -> str | None:
    """The axis that keys and values of an attention are spread over."""
    if ring_forms(node.target) is None:
        return None
    keys = ir.tensor_type(tensor_operands(node)[1]).dims[-2]
    return keys.axes[-1] if keys else None


def _make_ring(rewriter: ir.Rewriter, node: fx.Node, axis: str) -> None:
    forms = ring_forms(node.target)
    assert forms is not None
    arguments = (*bind(node).values(), axis)
    rewriter.set_target(node, forms.ring)
    rewriter.set_arguments(node, arguments, {})


def _reaches_over(node: fx.Node) -> list[tuple[int, str]]:
    """The dims and axes along which a piece needs its neighbours."""
    rule = rule_of(node) if node.op == "call_function" else None
    if rule is None or not any(factor.kind is ir.FactorKind.NEIGHBOURS for factor in rule.factors):
        return []
    kinds = tuple(ir.tensor_type(operand) for operand in tensor_operands(node))
    found = []
    for dim, sharding in enumerate(kinds[0].dims):
        for axis in sharding.axes if sharding else ():
            strategy = strategy_of(rule, kinds, result_types(node), axis)
            if strategy is not None and strategy.halo is not None:
                found.append((dim, axis))
    return found


def _make_halo(rewriter: ir.Rewriter, node: fx.Node, edges: list[tuple[int, str]]) -> None:
    if len(edges) > 1:
        axes = " and ".join(repr(axis) for _, axis in edges)
        raise ir.errors.ShardingError(
            f"%{node.name} would exchange the edges of its pieces over {axes}, but can over one axis alone",
            hint="shard one dim of a convolution over one axis where windows overlap",
        )
    arguments = with_halo(node, *edges[0])
    rewriter.set_target(node, conv_halo)
    rewriter.set_arguments(node, arguments, {})


def _move(rewriter: ir.Rewriter, value: fx.Node, axis: str, kind: ir.TensorType, reshard: fx.Node) -> fx.Node:
    source, target = ir.tensor_type(value).placement(axis), kind.placement(axis)
    if isinstance(source, ir.Replicate):
        op = ir.dialect.shard if isinstance(target, ir.Shard) else ir.dialect.make_partial
        return rewriter.insert(op, (value, axis), before=reshard, sources=(reshard,), type=kind)
    gathers, scatters = isinstance(source, ir.Shard), isinstance(target, ir.Shard)
    collective = {
        (True, False): ir.dialect.all_gather,
        (True, True): ir.dialect.all_to_all,
        (False, True): ir.dialect.reduce_scatter,
        (False, False): ir.dialect.all_reduce,
    }[gathers, scatters]
    row = rewriter.insert(collective, ([value], axis), before=reshard, sources=(reshard,), type=TupleType((kind,)))
    return rewriter.insert(operator.getitem, (row, 0), before=reshard, sources=(reshard,), type=kind)
