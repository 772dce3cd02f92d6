"""Which of an op's strategies may run along an axis: within the axis' policy, the user's pins, and what is settled."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.ops.attention import is_attention, ring_forms

from .cost import Work
from .policy import AxisPolicy, policy_of
from .statistics import Statistics

Placed = list[tuple[ir.TensorType | None, ir.Placement | None]]


def allowed(
    program: ir.Program, node: fx.Node, strategies: list[Strategy], axis: str, work: Work, statistics: Statistics
) -> list[Strategy]:
    """Those of ``strategies`` that may run, with what settled axes leave to divide."""
    policy = policy_of(axis)
    operands = tensor_operands(node)
    kinds = ir.info(node).uses or tuple(ir.tensor_type(operand) for operand in operands)  # as settled axes have it
    stays_whole = [axis in ir.info(o).pinned and ir.tensor_type(o).placement(axis) == ir.Replicate() for o in operands]
    found = []
    for strategy in strategies:
        moved = [placement != ir.Replicate() for placement in strategy.operands]
        if any(cut and pinned for cut, pinned in zip(moved, stays_whole, strict=True)):
            continue
        if not _suits_params(program, operands, strategy, policy, work) or not _suits_attention(node, strategy, policy):
            continue
        if strategy.halo is not None and any(kinds[0].dims[2:]):
            continue  # one exchange a convolution, between the pieces of one dim
        placed = [*zip(kinds, strategy.operands, strict=True), *zip(result_types(node), strategy.results, strict=True)]
        if all(kind is None or p is None or _fits(kind, p) for kind, p in placed):
            divided = _left_to_divide(program, axis, strategy, placed)
            found.append(replace(strategy, divided=divided, statistics=statistics.of(node, strategy)))
    return found


def _suits_params(
    program: ir.Program, operands: list[fx.Node], strategy: Strategy, policy: AxisPolicy, work: Work
) -> bool:
    params = [
        (operand, placement)
        for operand, placement in zip(operands, strategy.operands, strict=True)
        if operand.op == "placeholder" and operand.name in program.params
    ]
    if policy.whole_params and any(placement != ir.Replicate() for _, placement in params):
        return False
    weights = [placement for operand, placement in params if len(ir.tensor_type(operand).shape) > 1]
    cuts_none = bool(work.flops) and strategy.divided is not None and ir.Replicate() in weights
    return not (policy.divided_matmuls_shard_params and cuts_none)


def _suits_attention(node: fx.Node, strategy: Strategy, policy: AxisPolicy) -> bool:
    if not is_attention(node):
        return True
    if strategy.travelling:
        uses = ir.info(node).uses
        already = uses is not None and uses[strategy.travelling[0]].dims[-2] is not None
        return policy.rings and not already
    (result,) = strategy.results
    if not policy.whole_heads or not isinstance(result, ir.Shard):
        return True
    queries, keys = (ir.tensor_type(operand).shape[-2] for operand in tensor_operands(node)[:2])
    may_travel = ring_forms(node.target) is not None and queries == keys
    return result.dim == len(ir.tensor_type(node).shape) - 2 and not may_travel


def _left_to_divide(
    program: ir.Program,
    axis: str,
    strategy: Strategy,
    placed: Placed,
) -> ir.Layout | None:
    """What settled axes leave of the layout that the strategy divides; None where that is one unit a segment."""
    layout = strategy.divided
    for kind, placement in placed:
        if layout is None or kind is None or not isinstance(placement, ir.Shard) or placement.layout != layout:
            continue
        settled = kind.dims[placement.dim]
        if settled is not None:
            parts = math.prod(program.mesh.size(other) for other in settled.axes if other != axis)
            left = [ir.Segment(-(-s.size // s.unit // parts) * s.unit, s.unit) for s in layout.segments]
            return ir.Layout(tuple(left)) if any(s.size > s.unit for s in left) else None
    return layout


def _fits(kind: ir.TensorType, placement: ir.Placement) -> bool:
    """Whether the placement can be added on top of the settled axes."""
    if not isinstance(placement, ir.Shard):
        return True
    settled = kind.dims[placement.dim]
    return settled is None or settled.layout == placement.layout
