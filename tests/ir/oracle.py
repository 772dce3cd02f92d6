"""The rule oracle: what a rule says about sharding is tried out.

Operands are cut as a strategy says, the op runs on every rank's pieces as ``localize`` would run it, the results are
put together, and the whole is compared with the op on whole operands. Rules are judged by this alone, so a rule that
is wrong cannot hide behind the code that believes it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo.passes.expand_statistics import ExpandStatistics
from fastvideo.passes.localize import localize
from fastvideo.passes.lower_reshards import LowerReshards
from fastvideo_ir.errors import ShardingError
from fastvideo_ir.factors import FactorRule, Strategy
from fastvideo_ir.graph import map_operands, on_device, tensor_operands
from fastvideo_ir.infer import infer_type, type_of
from fastvideo_ir.layout import Layout, Segment
from fastvideo_ir.mesh import Mesh
from fastvideo_ir.ops.registry import OpDef, RankView
from fastvideo_ir.program import NodeInfo, Param, set_info, tensor_type, value_type
from fastvideo_ir.types import Partial, Placement, Replicate, Shard, TensorType, TupleType, ValueType, local_slice
from fastvideo_ir.verifier import strategy_of
from tests.ir.cases.case import Case, Draw
from tests.ir.pieces import PiecesError, combine, split_partial

CPU = torch.device("cpu")
PER_SHAPE = 2
"""Strategies tried per kind of strategy; a kind is which operand is sharded in which dim."""


class RuleError(AssertionError):
    """A rule is wrong, or says less than its case demands."""


@dataclass
class Instance:
    """One drawn call of an op: the node as a pass would see it, and the tensors it is called on."""

    op: OpDef
    case: Case
    node: fx.Node
    tensors: dict[fx.Node, Tensor]
    expected: list[Tensor | None]

    @property
    def operands(self) -> list[fx.Node]:
        return tensor_operands(self.node)

    def types(self) -> list[TensorType]:
        return [TensorType.of(self.tensors[operand]) for operand in self.operands]


def instance(op: OpDef, case: Case, draw: Draw) -> Instance:
    """Draw a call and build its node."""
    drawn = case.make(draw)
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {}
    tensors: dict[fx.Node, Tensor] = {}

    def visit(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in nodes:
                node = nodes[id(value)] = graph.placeholder(f"x{len(nodes)}")
                tensors[node] = value
                set_info(node, NodeInfo(TensorType.of(value)))
            return nodes[id(value)]
        if isinstance(value, (tuple, list)):
            return type(value)(visit(item) for item in value)
        return value

    args = visit(drawn.args)
    kwargs = {key: visit(value) for key, value in drawn.kwargs.items()}
    node = graph.call_function(op.target, args, kwargs)
    node.meta = {}
    set_info(node, NodeInfo(infer_type(op.target, args, kwargs)))
    result = op.target(*on_device(drawn.args, CPU), **on_device(drawn.kwargs, CPU))
    if type_of(result) != value_type(node):
        raise RuleError(f"{op.name}: runs to {type_of(result)}, but is inferred as {value_type(node)}")
    return Instance(op, case, node, tensors, flat_results(result))


def flat_results(result: Any) -> list[Tensor | None]:
    if isinstance(result, Tensor):
        return [result]
    return [element if isinstance(element, Tensor) else None for element in result]


def random_layout(size: int, draw: Draw) -> Layout:
    """One to three segments, each with a unit that divides it."""
    count = draw.random.randint(1, min(3, max(size, 1)))
    cuts = sorted(draw.random.sample(range(1, size), count - 1)) if count > 1 else []
    sizes = [high - low for low, high in zip([0, *cuts], [*cuts, size], strict=True)]
    segments = []
    for part in sizes:
        divisors = [unit for unit in range(1, part + 1) if part % unit == 0] or [1]
        segments.append(Segment(part, draw.random.choice(divisors)))
    return Layout(tuple(segments))


def candidates(rule: FactorRule, types: Iterable[TensorType], draw: Draw) -> list[list[list[Layout]]]:
    """Layouts per tensor and dim: ones that ignore the rule, and ones that follow from a layout of each factor."""
    exprs = [*rule.operands, *(r for r in rule.results if r is not None)]
    result = []
    for tensor, kind in zip(exprs, types, strict=True):
        dims = []
        for expr, size in zip(tensor, kind.shape, strict=True):
            layouts = [Layout.even(size), random_layout(size, draw)] if size else []
            for _ in range(2):
                indices = [draw.random.choice(term) if term else None for term in expr]
                if None not in indices and expr:
                    chosen = {i: random_layout(rule.factors[i].size, draw) for i in indices if i is not None}
                    try:
                        layout = rule.layout(expr, chosen)
                    except ShardingError:
                        continue
                    if layout is not None and layout.size == size:
                        layouts.append(layout)
            dims.append(layouts)
        result.append(dims)
    return result


def strategies(one: Instance, draw: Draw) -> list[Strategy]:
    """Everything that the rule allows for the candidate layouts.

    Raises:
        RuleError: the rule does not fit the shapes.
    """
    rule = _rule(one)
    if rule is None:
        return []
    results = [None if e is None else TensorType.of(e) for e in one.expected]
    _check_sizes(one, rule, one.types(), results)
    return rule.strategies(candidates(rule, [*one.types(), *(r for r in results if r is not None)], draw))


def _rule(one: Instance) -> FactorRule | None:
    return one.op.rule(one.node) if one.op.rule else None


def _check_sizes(one: Instance, rule: FactorRule, operands: list[TensorType], results: list[TensorType | None]) -> None:
    tensors = [*zip(rule.operands, operands, strict=True), *zip(rule.results, results, strict=True)]
    for expr, kind in tensors:
        if (expr is None) != (kind is None):
            raise RuleError(f"{one.op.name}: a result of the rule is absent, or one too many")
        if expr is None or kind is None:
            continue
        sizes = tuple(rule.dim_size(dim) for dim in expr)
        # An empty dim has no expression of its own; it is never sharded.
        if len(sizes) != len(kind.shape) or any(a != b for a, b in zip(sizes, kind.shape, strict=True) if b):
            raise RuleError(f"{one.op.name}: the rule gives a tensor {sizes}, it is {kind}")


def check_case(op: OpDef, case: Case, seeds: Iterable[int], ranks: tuple[int, ...] = (2, 3, 4)) -> int:
    """Try every kind of strategy that the op's rule allows, and demand those that the case names.

    Returns:
        How many strategies ran.

    Raises:
        RuleError: with the op, the strategy and what differs.
    """
    count = 0
    for seed in seeds:
        draw = Draw(seed)
        one = instance(op, case, draw)
        allowed = strategies(one, draw)
        _demand(one, allowed)
        for strategy in sampled(allowed, draw):
            mesh = Mesh((("x", draw.random.choice(ranks)),))
            check_strategies(one, mesh, {"x": strategy}, draw)
            count += 1
    return count


def check_pairs(op: OpDef, case: Case, seeds: Iterable[int]) -> int:
    """Try pairs of strategies, each over an axis of its own. Returns how many pairs fit together."""
    count = 0
    for seed in seeds:
        draw = Draw(seed)
        one = instance(op, case, draw)
        allowed = sampled(strategies(one, draw), draw)
        if not allowed:
            continue
        mesh = Mesh((("x", 2), ("y", draw.random.choice((2, 3)))))
        for _ in range(4):
            pair = {"x": draw.random.choice(allowed), "y": draw.random.choice(allowed)}
            try:
                check_strategies(one, mesh, pair, draw)
            except ShardingError:
                continue  # the two want one dim in two layouts
            count += 1
    return count


def sampled(allowed: list[Strategy], draw: Draw) -> list[Strategy]:
    """A few of each kind."""
    kinds: dict[object, list[Strategy]] = {}
    for strategy in allowed:
        key = tuple(_kind(p) for p in (*strategy.operands, *strategy.results))
        kinds.setdefault(key, []).append(strategy)
    return [s for group in kinds.values() for s in draw.random.sample(group, min(PER_SHAPE, len(group)))]


def _kind(placement: Placement | None) -> object:
    return placement.dim if isinstance(placement, Shard) else type(placement)


def _demand(one: Instance, allowed: list[Strategy]) -> None:
    def refuse(what: str) -> None:
        raise RuleError(f"{one.op.name} on {_shown(one.types())}: the rule does not allow {what}")

    for dim in one.case.shards:
        if not any(isinstance(s.results[0], Shard) and s.results[0].dim == dim for s in allowed):
            refuse(f"a shard of dim {dim} of the result")
    for number, dim in one.case.sums:
        if not any(_kind(s.operands[number]) == dim and isinstance(s.results[0], Partial) for s in allowed):
            refuse(f"a shard of dim {dim} of operand {number} with a partial result")
    for number, dim in one.case.statistics:
        if not any(_kind(s.operands[number]) == dim and s.expanded for s in allowed):
            refuse(f"a shard of dim {dim} of operand {number} at the price of an expansion")
    for group in one.case.partial:
        wanted = tuple(Partial() if n in group else Replicate() for n in range(len(one.operands)))
        if not any(s.operands == wanted and isinstance(s.results[0], Partial) for s in allowed):
            refuse(f"partial sums of operands {group}")


def check_strategies(one: Instance, mesh: Mesh, chosen: dict[str, Strategy], draw: Draw) -> None:
    """Run the op on every rank under one strategy per mesh axis, and compare."""
    operand_types = one.types()
    result_types: list[TensorType | None] = [None if e is None else TensorType.of(e) for e in one.expected]
    for axis, strategy in chosen.items():
        operand_types = [t.with_placement(axis, p) for t, p in zip(operand_types, strategy.operands, strict=True)]
        result_types = [
            t.with_placement(axis, p) if t is not None and p is not None else None
            for t, p in zip(result_types, strategy.results, strict=True)
        ]
    if len({(o, t) for o, t in zip(one.operands, operand_types, strict=True)}) != len(set(one.operands)):
        return  # one value is wanted in two placements; a program would hold two nodes
    where = f"{one.op.name}: {_shown(operand_types)} -> {_shown(result_types)} on {mesh}"
    known = [strategy_of(_rule(one), tuple(operand_types), tuple(result_types), axis) for axis in chosen]
    if None in known:
        raise RuleError(f"{where}\n  the verifier does not know this strategy again")
    addends = {
        operand: split_partial(one.tensors[operand], kind, mesh, draw)
        for operand, kind in zip(one.operands, operand_types, strict=True)
    }
    unplaced = value_type(one.node)
    try:
        for operand, kind in zip(one.operands, operand_types, strict=True):
            set_info(operand, NodeInfo(kind))
        set_info(one.node, NodeInfo(_value_type(result_types, unplaced)))
        if any(strategy is not None and (strategy.expanded or strategy.halo is not None) for strategy in known):
            pieces = _run_together(one, mesh, addends, where)
        else:
            pieces = [_run_rank(one, mesh, rank, addends, where) for rank in range(mesh.num_ranks)]
        for rank, piece in enumerate(pieces):
            _check_piece(piece, result_types, mesh, rank, where)
    finally:
        for operand, tensor in one.tensors.items():
            set_info(operand, NodeInfo(TensorType.of(tensor)))
        set_info(one.node, NodeInfo(unplaced))
    for number, (want, placed) in enumerate(zip(one.expected, result_types, strict=True)):
        if want is None or placed is None:
            continue
        tolerance = one.case.tolerance
        if tolerance is None:
            continue
        try:
            found = combine([piece[number] for piece in pieces], placed, mesh)  # type: ignore[misc]
        except PiecesError as error:
            raise RuleError(f"{where}\n  {error}") from error
        _compare(found, want, max(tolerance, 1e-10) if placed.partial else tolerance, where)


def _value_type(results: list[TensorType | None], unplaced: ValueType) -> ValueType:
    if isinstance(unplaced, TupleType):
        return TupleType(tuple(results))
    assert results[0] is not None
    return results[0]


def _run_rank(
    one: Instance,
    mesh: Mesh,
    rank: int,
    addends: dict[fx.Node, list[Tensor]],
    where: str,
) -> list[Tensor | None]:
    at = mesh.coordinates(rank)
    node = one.node
    target, args, kwargs = node.target, node.args, node.kwargs
    try:
        if one.op.localize:
            target, args, kwargs = one.op.localize(node, RankView(mesh, at))
        local = _local_operands(one, mesh, rank, addends)
        result = target(*_filled(args, local), **_filled(kwargs, local))  # type: ignore[operator]
    except Exception as error:
        raise RuleError(f"{where}\n  rank {rank} cannot run it: {error!r}") from error
    return flat_results(result)


def _local_operands(
    one: Instance, mesh: Mesh, rank: int, addends: dict[fx.Node, list[Tensor]]
) -> dict[fx.Node, Tensor]:
    local = {}
    for operand in one.operands:
        kind = tensor_type(operand)
        plain = TensorType(kind.dtype, kind.shape, kind.dims)
        local[operand] = local_slice(addends[operand][rank], plain, mesh, mesh.coordinates(rank)).contiguous()
    return local


def _run_together(
    one: Instance, mesh: Mesh, addends: dict[fx.Node, list[Tensor]], where: str
) -> list[list[Tensor | None]]:
    """As a program of this one op, whose ranks talk as they do in any program."""
    operands = list(dict.fromkeys(one.operands))
    graph = fx.Graph()
    new = {operand: graph.placeholder(operand.name) for operand in operands}
    call = graph.call_function(one.node.target, *map_operands(one.node, [new[o] for o in one.operands]))  # type: ignore[arg-type]
    results = [call]
    if isinstance(value_type(one.node), TupleType):
        results = [graph.call_function(operator.getitem, (call, n)) for n in range(len(one.expected))]
    graph.output(tuple(results))
    for copy, original in [*((new[o], o) for o in operands), (call, one.node)]:
        copy.meta = {}
        set_info(copy, NodeInfo(value_type(original)))
    for result, kind in zip(results, ir.types.tensor_types(value_type(one.node)), strict=True):
        result.meta = {}
        set_info(result, NodeInfo(kind))
    params = {copy.name: Param(copy.name) for copy in new.values()}  # so that they may be placed
    program = ir.Program(graph, params, mesh, ir.Stage.PLACED)
    try:
        ir.run_passes(program, [ExpandStatistics(), LowerReshards()])
        ranks = range(mesh.num_ranks)
        local = [_local_operands(one, mesh, rank, addends) for rank in ranks]
        pieces = [{new[operand].name: tensor for operand, tensor in held.items()} for held in local]
        programs = [localize(program, rank) for rank in ranks]
        return ir.interpreter.run_lockstep(programs, pieces, [], CPU)
    except ShardingError:
        raise  # the ranks cannot talk inside of it over both axes
    except Exception as error:
        raise RuleError(f"{where}\n  the ranks cannot run it together: {error!r}") from error


def _check_piece(
    pieces: list[Tensor | None], result_types: list[TensorType | None], mesh: Mesh, rank: int, where: str
) -> None:
    at = mesh.coordinates(rank)
    for piece, expected in zip(pieces, result_types, strict=True):
        if piece is None or expected is None:
            continue
        if tuple(piece.shape) != expected.local_shape(mesh, at) or piece.dtype != expected.dtype:
            raise RuleError(
                f"{where}\n  rank {rank} yields {TensorType.of(piece)}, expected the local shape "
                f"{expected.local_shape(mesh, at)} of {expected}"
            )


def _filled(value: Any, local: dict[fx.Node, Tensor]) -> Any:
    if isinstance(value, fx.Node):
        return local[value]
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(item, local) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, local) for key, item in value.items()}
    return on_device(value, CPU)


def _compare(found: Tensor, want: Tensor, tolerance: float, where: str) -> None:
    if tolerance == 0 or not (want.is_floating_point() or want.is_complex()):
        same = torch.equal(torch.nan_to_num(found), torch.nan_to_num(want))
    else:
        finite = torch.nan_to_num(want)
        scale = max(1.0, float(finite.abs().max())) if want.numel() else 1.0
        same = torch.allclose(found, want, rtol=0, atol=tolerance * scale, equal_nan=True)
    if not same:
        raise RuleError(
            f"{where}\n  differs from the op on whole operands by up to "
            f"{float((found.to(torch.complex128) - want).abs().max()):.3g}"
        )


def _shown(kinds: Iterable[TensorType | None]) -> str:
    return "(" + ", ".join("none" if kind is None else str(kind) for kind in kinds) + ")"
