"""Checks that a Program is what its stage says it is. Runs after every pass in tests, and on demand elsewhere."""

from __future__ import annotations

from torch import fx

from . import dialect
from .block import Block
from .collectives import Move
from .diagnostics import node_error
from .factors import FactorRule, Strategy, replicated
from .first_rank import runs_on_first_rank
from .graph import bind, is_getitem, result_types, tensor_operands
from .infer import infer_type
from .ops.attention import is_ring
from .ops.conv import conv_halo
from .ops.registry import of
from .program import INFO_KEY, Program, Stage, info, tensor_type, value_type
from .types import Partial, Replicate, Shard, TensorType, TupleType, ValueType, tensor_types


def verify(program: Program) -> None:
    """Check the whole program.

    Raises:
        VerificationError: the first rule that is broken, with its node and surroundings.
    """
    program.graph.lint()
    seen_input = False
    for node in program.nodes:
        if node.op == "placeholder":
            seen_input |= node.name not in program.params
            if seen_input and node.name in program.params:
                raise node_error(program, node, "param-order", "params must come before inputs")
        if node.op == "output":
            if program.stage >= Stage.PLACED:
                _verify_output(program)
            continue
        _verify_info(program, node)
        if node.op == "call_function":
            _verify_stage(program, node)
            _verify_types(program, node)
            if Stage.PLACED <= program.stage < Stage.LOCAL:
                _verify_placements(program, node)
        elif node.op != "placeholder":
            raise node_error(program, node, "node-kind", f"a program has no {node.op!r} nodes")


def _verify_info(program: Program, node: fx.Node) -> None:
    if set(node.meta) != {INFO_KEY}:
        raise node_error(program, node, "meta", f"node.meta must hold {INFO_KEY!r} alone, has {sorted(node.meta)}")
    if info(node).type is None:
        raise node_error(program, node, "untyped", "every value has a type")
    for kind in tensor_types(value_type(node)):
        unknown = kind.placed_axes - set(program.mesh.names)
        if unknown:
            raise node_error(program, node, "unknown-axis", f"{kind} uses {sorted(unknown)}, not in {program.mesh}")


def _verify_output(program: Program) -> None:
    for value in program.output_values:
        if isinstance(value, fx.Node) and tensor_type(value).placed_axes:
            raise node_error(program, value, "output-placement", "what the program returns must be replicated")


def _verify_stage(program: Program, node: fx.Node) -> None:
    op = of(node)
    if op and not op.first <= program.stage <= op.last:
        raise node_error(
            program,
            node,
            "stage",
            f"{op.name} may occur from {op.first.name} to {op.last.name}, not at {program.stage.name}",
        )
    if program.rank and runs_on_first_rank(node):
        raise node_error(
            program, node, "first-rank", f"rank 0 runs it for all; this is the program of rank {program.rank}"
        )


def _verify_types(program: Program, node: fx.Node) -> None:
    if isinstance(node.target, dialect.PlacementOp):
        operands, results = tensor_operands(node), result_types(node)
        if len(operands) != len(results):
            raise node_error(program, node, "arity", f"{len(operands)} operands but {len(results)} results")
        for operand, result in zip(operands, results, strict=True):
            if result is None or result.unplaced != tensor_type(operand).unplaced:
                raise node_error(program, node, "type", f"{tensor_type(operand)} cannot become {result}")
        return
    if is_getitem(node):
        _verify_getitem(program, node)
        return
    if isinstance(node.target, dialect.TransferOp):
        _verify_transfer(program, node)
        return
    if node.target is dialect.eager_call:
        _verify_eager_call(program, node)
        return
    if isinstance(node.target, Block):
        return  # its calls were checked before they were outlined
    assert callable(node.target)
    local = program.stage >= Stage.LOCAL
    try:
        found = infer_type(
            node.target,
            node.args,
            node.kwargs,
            (lambda kind: kind.local_shape(program.mesh, program.coordinates)) if local else None,
        )
    except Exception as error:
        raise node_error(program, node, "illegal-call", f"the op refuses its operands: {error}") from error
    declared = value_type(node)
    if _pattern(found) != _pattern(declared):
        raise node_error(program, node, "arity", f"the op yields {found}, the type says {declared}")
    for got, want in zip(tensor_types(found), tensor_types(declared), strict=True):
        shape = want.local_shape(program.mesh, program.coordinates) if local else want.shape
        if got.dtype != want.dtype or got.shape != shape:
            raise node_error(program, node, "type", f"the op yields {got}, the type says {want}")


def _pattern(kind: ValueType) -> tuple[bool, ...] | None:
    """Which results of a tuple are there; None for a single tensor."""
    return tuple(e is not None for e in kind.elements) if isinstance(kind, TupleType) else None


def _verify_transfer(program: Program, node: fx.Node) -> None:
    """Buffers must be as long as their pieces, and equal-shaped where they are summed."""
    (operand,) = tensor_operands(node)
    sent, received = (tensor_type(value).local_shape(program.mesh, program.coordinates) for value in (operand, node))
    sizes: list[tuple[object, object]] = [(sent, received)]
    if node.target is dialect.exchange:
        sizes = [(sent, (sum(node.args[2]),)), (received, (sum(node.args[3]),))]  # type: ignore[arg-type]
    elif node.target is dialect.gather:
        sizes = [(received, (sum(node.args[2]),))]  # type: ignore[arg-type]
    for found, expected in sizes:
        if found != expected:
            raise node_error(program, node, "transfer", f"a buffer of shape {found} where {expected} is moved")


def _verify_eager_call(program: Program, node: fx.Node) -> None:
    """Python sees whole tensors, and gives such; what it computes of them is its own affair."""
    operands, function = node.args
    if not isinstance(operands, (list, tuple)) or not isinstance(function, str):
        raise node_error(program, node, "eager-call", "expected a list of operands and the name of a function")
    if program.functions and function not in program.functions:
        raise node_error(program, node, "eager-call", f"the program holds no function {function!r}")
    if not isinstance(value_type(node), TupleType) or None in result_types(node):
        raise node_error(program, node, "eager-call", f"it yields a row of tensors, the type says {value_type(node)}")


def _verify_getitem(program: Program, node: fx.Node) -> None:
    source, index = node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    kind = value_type(source)
    if not isinstance(kind, TupleType) or not 0 <= index < len(kind.elements):
        raise node_error(program, node, "getitem", f"%{source.name} : {kind} has no element {index}")
    if kind.elements[index] != value_type(node):
        raise node_error(program, node, "getitem", f"element {index} of %{source.name} is {kind.elements[index]}")


def _verify_placements(program: Program, node: fx.Node) -> None:
    if is_getitem(node):
        return
    if isinstance(node.target, dialect.PlacementOp):
        _verify_placement_op(program, node)
        return
    operands = [tensor_type(operand) for operand in tensor_operands(node)]
    wanted = info(node).uses or tuple(operands)
    results = result_types(node)
    placed = {axis for kind in (*wanted, *results) if kind is not None for axis in kind.placed_axes}
    rule = rule_of(node) if placed else None
    for axis in sorted(placed):
        strategy = strategy_of(rule, wanted, results, axis)
        if strategy is None:
            shown = ", ".join(str(kind) for kind in wanted)
            raise node_error(
                program,
                node,
                "placement-mismatch",
                f"({shown}) -> {value_type(node)} breaks the op's rule over axis {axis!r}",
            )
        # Until reshards are lowered, types alone say what ranks exchange inside an op.
        talks = strategy.halo is not None or bool(strategy.travelling)
        if program.stage > Stage.PLACED and talks != (axis == exchange_axis(node)):
            raise node_error(
                program,
                node,
                "exchange",
                f"ranks exchange over {exchange_axis(node)!r} inside of it, but the types say otherwise of {axis!r}",
            )


def exchange_axis(node: fx.Node) -> str | None:
    """The axis over which ranks exchange pieces inside of an op: a ring, or a convolution with a halo."""
    return str(bind(node)["axis"]) if is_ring(node) or node.target is conv_halo else None


def rule_of(node: fx.Node) -> FactorRule | None:
    """The factor rule of a node; None where its op has none, and where one rank runs it for all."""
    if runs_on_first_rank(node):
        return None
    op = of(node)
    return op.rule(node) if op and op.rule else None


def strategy_of(
    rule: FactorRule | None, operands: tuple[TensorType, ...], results: tuple[TensorType | None, ...], axis: str
) -> Strategy | None:
    """The strategy of ``rule`` under which operands and results are placed as they are along ``axis``, if any."""
    have = tuple(kind.placement(axis) for kind in operands)
    give = tuple(None if kind is None else kind.placement(axis) for kind in results)
    candidates = [replicated(len(operands), results)]
    if rule is not None:
        present = [kind for kind in results if kind is not None]
        layouts = []
        for kind in (*operands, *present):
            placement = kind.placement(axis)
            at = placement if isinstance(placement, Shard) else None
            layouts.append([[at.layout] if at and at.dim == dim else [] for dim in range(len(kind.shape))])
        candidates += rule.strategies(layouts) + rule.ring_strategies(layouts)
    for strategy in candidates:
        if strategy.operands == have and strategy.results == give:
            return strategy
    return None


def _verify_placement_op(program: Program, node: fx.Node) -> None:
    if node.target is dialect.reshard:
        return
    axis = node.args[1]
    assert isinstance(axis, str)
    for operand, result in zip(tensor_operands(node), result_types(node), strict=True):
        assert result is not None
        source = tensor_type(operand)
        expected = {
            dialect.shard: (Replicate, Shard),
            dialect.make_partial: (Replicate, Partial),
            dialect.all_gather: (Shard, Replicate),
            dialect.all_to_all: (Shard, Shard),
            dialect.reduce_scatter: (Partial, Shard),
            dialect.all_reduce: (Partial, Replicate),
        }[node.target]  # type: ignore[index]
        found = (type(source.placement(axis)), type(result.placement(axis)))
        if found != expected:
            names = " to ".join(kind.__name__ for kind in expected)
            raise node_error(program, node, "collective", f"{source} to {result} over {axis!r} is not {names}")
        for other in set(program.mesh.names) - {axis}:
            if source.placement(other) != result.placement(other):
                raise node_error(program, node, "collective", f"{source} to {result} also changes axis {other!r}")
        _verify_innermost(program, node, source, result, axis)


def _verify_innermost(program: Program, node: fx.Node, source: TensorType, result: TensorType, axis: str) -> None:
    """An axis can only come off, or on, as the innermost of its dim; another order would need other pieces."""
    move = Move(source, result, axis, program.mesh, program.mesh.coordinates(0))
    for kind, dim in ((source, move.gathered_dim), (result, move.scattered_dim)):
        sharding = kind.dims[dim] if dim is not None else None
        if sharding and sharding.axes[-1] != axis:
            raise node_error(program, node, "axis-order", f"{axis!r} is not the innermost axis of dim {dim} in {kind}")
