"""What the placement ops do on all ranks together: every piece ends where its type says, whatever the layouts."""

from __future__ import annotations

import operator
import threading
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from fastvideo.passes.localize import localize
from fastvideo_ir import (
    Mesh,
    NodeInfo,
    Param,
    Partial,
    Placement,
    Program,
    Replicate,
    Shard,
    Stage,
    TensorType,
    TupleType,
    dialect,
    interpreter,
    local_slice,
    set_info,
    verify,
)
from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.interpreter import evaluate, run_lockstep, run_rank
from fastvideo_ir.types import parse_type
from tests.ir.cases import Draw
from tests.ir.pieces import combine, split_partial
from tests.ir.strategies import layouts_of, meshes, placements

Pair = tuple[type, type]
OPS: dict[dialect.PlacementOp, Pair] = {
    dialect.shard: (Replicate, Shard),
    dialect.make_partial: (Replicate, Partial),
    dialect.all_gather: (Shard, Replicate),
    dialect.all_to_all: (Shard, Shard),
    dialect.reduce_scatter: (Partial, Shard),
    dialect.all_reduce: (Partial, Replicate),
}


@st.composite
def moves(draw: st.DrawFn, op: dialect.PlacementOp, mesh: Mesh, axis: str) -> tuple[TensorType, TensorType]:
    """A source and a target type that ``op`` may connect; the other axes of the mesh are placed at random."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    kind = TensorType(torch.float64, shape)
    for other in mesh.names:
        if other != axis:
            kind = kind.with_placement(other, draw(placements(kind)))
    before, after = OPS[op]
    source = kind.with_placement(axis, draw(_of(before, kind)))
    target = kind.with_placement(axis, draw(_of(after, kind)))
    return source, target


def _of(wanted: type, kind: TensorType) -> st.SearchStrategy[Placement]:
    if wanted is not Shard:
        return st.just(wanted())
    return st.integers(0, len(kind.shape) - 1).flatmap(
        lambda dim: (
            st.just(Shard(dim, sharding.layout))
            if (sharding := kind.dims[dim])
            else layouts_of(kind.shape[dim]).map(lambda layout: Shard(dim, layout))
        )
    )


def program_of(op: dialect.PlacementOp, row: list[tuple[TensorType, TensorType]], mesh: Mesh, axis: str) -> Program:
    """``op`` on a row of params, before ``localize``."""
    graph = fx.Graph()
    operands = [graph.placeholder(f"p{number}") for number in range(len(row))]
    for node, (source, _) in zip(operands, row, strict=True):
        node.meta = {}
        set_info(node, NodeInfo(source))
    local = op in dialect.LOCAL_PLACEMENTS
    call = graph.call_function(op, (operands[0] if local else list(operands), axis))
    targets = [target for _, target in row]
    set_info(call, NodeInfo(targets[0] if local else TupleType(tuple(targets))))
    results = [call] if local else []
    for number, target in enumerate([] if local else targets):
        item = graph.call_function(operator.getitem, (call, number))
        set_info(item, NodeInfo(target))
        results.append(item)
    graph.output(tuple(results))
    params = {node.name: Param(f"weight{number}") for number, node in enumerate(operands)}
    return Program(graph, params, mesh, Stage.COMMUNICATING)


def local_programs(program: Program) -> list[Program]:
    return [localize(program, rank) for rank in range(program.mesh.num_ranks)]


def pieces(value: Tensor, kind: TensorType, mesh: Mesh, draw: Draw) -> list[Tensor]:
    """What each rank holds of ``value``; partial sums are split at random."""
    plain = TensorType(kind.dtype, kind.shape, kind.dims)
    addends = split_partial(value, kind, mesh, draw)
    return [local_slice(addend, plain, mesh, mesh.coordinates(rank)) for rank, addend in enumerate(addends)]


def check(op: dialect.PlacementOp, row: list[tuple[TensorType, TensorType]], mesh: Mesh, axis: str) -> None:
    draw = Draw(0)
    program = program_of(op, row, mesh, axis)
    verify_allowing_placed_outputs(program)
    wholes = [torch.arange(source.numel, dtype=torch.float64).view(source.shape) + 1 for source, _ in row]
    assert all(
        torch.equal(found, whole) for found, whole in zip(evaluate(program, _params(wholes), []), wholes, strict=True)
    ), "on global values a placement op is the identity"
    held = [pieces(whole, source, mesh, draw) for whole, (source, _) in zip(wholes, row, strict=True)]
    params = [_params([column[rank] for column in held]) for rank in range(mesh.num_ranks)]
    locals_ = local_programs(program)
    for local in locals_:
        verify_allowing_placed_outputs(local)
    outputs = run_lockstep(locals_, params, [])
    for number, (whole, (_, target)) in enumerate(zip(wholes, row, strict=True)):
        found = [output[number] for output in outputs]
        for rank, piece in enumerate(found):
            assert tuple(piece.shape) == target.local_shape(mesh, mesh.coordinates(rank))
        torch.testing.assert_close(combine(found, target, mesh), whole, rtol=0, atol=1e-9)


def verify_allowing_placed_outputs(program: Program) -> None:
    copy = program.copy()
    copy.output_node.args = ((),)
    verify(copy)


def _params(values: list[Tensor]) -> dict[str, Tensor]:
    return {f"weight{number}": value for number, value in enumerate(values)}


@pytest.mark.parametrize("op", OPS, ids=str)
@given(data=st.data(), mesh=meshes)
@settings(max_examples=60)
def test_pieces_end_where_the_target_type_says(op: dialect.PlacementOp, data: st.DataObject, mesh: Mesh) -> None:
    axis = data.draw(st.sampled_from(mesh.names))
    count = 1 if op in dialect.LOCAL_PLACEMENTS else data.draw(st.integers(1, 3))
    check(op, [data.draw(moves(op, mesh, axis)) for _ in range(count)], mesh, axis)


def types(*texts: str) -> list[tuple[TensorType, TensorType]]:
    """Sources and targets, written ``source -> target``."""
    return [tuple(parse_type(part) for part in text.split(" -> ")) for text in texts]  # type: ignore[misc]


SP3, BOTH = Mesh((("sp", 3),)), Mesh((("tp", 2), ("sp", 2)))


@pytest.mark.parametrize(
    ("op", "row", "mesh"),
    [
        (dialect.all_to_all, types("f64[7@sp, 20] -> f64[7, 20/4@sp]"), SP3),
        (dialect.all_to_all, types("f64[2+5@sp, 20] -> f64[7, 20/4@sp]", "f64[7@sp, 20] -> f64[2+5@sp, 20]"), SP3),
        (dialect.all_gather, types("f64[2, 3*8/4@sp] -> f64[2, 24]"), SP3),
        (dialect.all_gather, types("f64[9@tp.sp] -> f64[9@tp]"), BOTH),
        (dialect.shard, types("f64[9@tp] -> f64[9@tp.sp]"), BOTH),
        (dialect.reduce_scatter, types("f64[9@tp]{sum:sp} -> f64[9@tp.sp]"), BOTH),
        (dialect.all_to_all, types("f64[9@tp.sp, 6] -> f64[9@tp, 6@sp]"), BOTH),
        (dialect.all_to_all, types("f64[5@sp, 6@tp] -> f64[5, 6@tp.sp]"), BOTH),
        (dialect.all_to_all, types("f64[5@sp, 6]{sum:tp} -> f64[5, 6@sp]{sum:tp}"), BOTH),
        (dialect.all_reduce, types("f64[5]{sum:sp,tp} -> f64[5]{sum:tp}"), BOTH),
    ],
    ids=lambda value: str(value) if isinstance(value, dialect.PlacementOp) else None,
)
def test_known_hard_moves(op: dialect.PlacementOp, row: list[tuple[TensorType, TensorType]], mesh: Mesh) -> None:
    check(op, row, mesh, "sp")


class Threads:
    """A communicator whose ranks are threads."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._barrier = threading.Barrier(mesh.num_ranks)
        self._board: dict[int, Any] = defaultdict(dict)

    def of(self, rank: int) -> interpreter.Communicator:
        return _ThreadRank(self, rank)

    def swap(self, rank: int, axis: str, value: Any) -> list[Any]:
        self._board[rank] = value
        self._barrier.wait()
        found = [self._board[peer] for peer in self._mesh.group(rank, axis)]
        self._barrier.wait()
        return found


class _ThreadRank:
    def __init__(self, world: Threads, rank: int) -> None:
        self._world, self._rank = world, rank

    def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor:
        assert send.shape == (sum(send_numels),)
        rows = self._world.swap(self._rank, axis, torch.split(send, send_numels))
        position = self._world._mesh.group(self._rank, axis).index(self._rank)
        received = [row[position] for row in rows]
        assert [chunk.numel() for chunk in received] == receive_numels
        return torch.cat(received)

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor:
        received = self._world.swap(self._rank, axis, value)
        assert [chunk.numel() for chunk in received] == numels
        return torch.cat(received)

    def all_reduce(self, axis: str, value: Tensor) -> Tensor:
        return torch.stack(self._world.swap(self._rank, axis, value)).sum(0)


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (dialect.all_to_all, "f64[7@sp, 20] -> f64[7, 20/4@sp]"),
        (dialect.all_gather, "f64[7@sp, 2] -> f64[7, 2]"),
        (dialect.reduce_scatter, "f64[7, 2]{sum:sp} -> f64[7@sp, 2]"),
        (dialect.all_reduce, "f64[7, 2]{sum:sp} -> f64[7, 2]"),
    ],
    ids=str,
)
def test_ranks_of_their_own_compute_what_lockstep_computes(op: dialect.PlacementOp, text: str) -> None:
    (row,) = types(text)
    programs = local_programs(program_of(op, [row], SP3, "sp"))
    value = torch.arange(row[0].numel, dtype=torch.float64).view(row[0].shape)
    params = [_params([piece]) for piece in pieces(value, row[0], SP3, Draw(1))]
    world = Threads(SP3)
    found: list[Any] = [None] * 3

    def work(rank: int) -> None:
        found[rank] = run_rank(programs[rank], params[rank], [], world.of(rank))

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for mine, theirs in zip(found, run_lockstep(programs, params, []), strict=True):
        assert torch.equal(mine[0], theirs[0])


def test_observers_learn_which_rank_computes() -> None:
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(interpreter.current_rank())
        return x

    (row,) = types("f64[3@sp] -> f64[3]")
    program = program_of(dialect.all_gather, [row], SP3, "sp")
    last = next(node for node in program.nodes if node.name.startswith("getitem"))
    with program.graph.inserting_after(last):
        call = program.graph.call_function(spy, (last,))
    set_info(call, NodeInfo(row[1]))
    value = torch.arange(3.0, dtype=torch.float64)
    params = [_params([piece]) for piece in pieces(value, row[0], SP3, Draw(0))]
    run_lockstep(local_programs(program), params, [])
    assert seen == [0, 1, 2]
    assert interpreter.current_rank() is None


def test_wrong_uses_of_the_interpreter_are_refused() -> None:
    (row,) = types("f64[3@sp] -> f64[3]")
    program = program_of(dialect.all_gather, [row], SP3, "sp")
    with pytest.raises(InvalidArgumentError, match="the program takes 0 tensors, got 1"):
        evaluate(program, {}, [torch.ones(1)])
    with pytest.raises(InvalidArgumentError, match="a local program runs with run_rank or run_lockstep"):
        evaluate(local_programs(program)[0], {}, [])
