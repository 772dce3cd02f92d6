"""Runs a Program node by node: whole on one device, one rank of a mesh, or all ranks in lockstep in one process.

Every stage runs. Until ``localize`` shapes are global and placement ops are identities, so a sharded program still
computes what the model computes. A local program runs as a generator that stops at each collective; who drives it
decides what that means: a process group for one rank among others, plain tensor exchange for a simulated mesh.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from . import dialect
from .collectives import Move
from .errors import InvalidArgumentError
from .graph import map_arguments, on_device, result_types, tensor_operands
from .program import Program, Stage, tensor_type


class Communicator(Protocol):
    """Exchanges flat tensors between the ranks of one mesh axis. Lists are in axis order, own entry included."""

    def exchange(self, axis: str, send: list[Tensor], receive_numels: list[int]) -> list[Tensor]:
        """All-to-all with uneven pieces: ``send[p]`` goes to peer p."""

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> list[Tensor]:
        """``value`` of every peer; sizes may differ."""

    def all_reduce(self, axis: str, value: Tensor) -> Tensor:
        """Sum over the peers, as a new tensor."""


@dataclass(frozen=True)
class Exchange:
    """A request of a running rank to its communicator."""

    axis: str
    send: list[Tensor]
    receive_numels: list[int]


@dataclass(frozen=True)
class AllGather:
    axis: str
    value: Tensor
    numels: list[int]


@dataclass(frozen=True)
class AllReduce:
    axis: str
    value: Tensor


Request = Exchange | AllGather | AllReduce
RankRun = Generator[Request, list[Tensor], list[Any]]
"""A rank in execution: yields requests, receives their results, returns the outputs."""

_current_rank: ContextVar[int | None] = ContextVar("current_rank", default=None)


def current_rank() -> int | None:
    """The simulated rank that is computing right now; None outside :func:`run_lockstep`. For observers."""
    return _current_rank.get()


def evaluate(
    program: Program, params: Mapping[str, Tensor], inputs: Sequence[Tensor], device: torch.device | None = None
) -> list[Any]:
    """Run a program with global shapes in one process.

    Args:
        program: at any stage before LOCAL.
        params: whole tensors by :attr:`Param.source`.
        inputs: flat, in the order of ``program.input_nodes``.
        device: what the program's device token stands for; the first input's or param's device where None.

    Returns:
        The flat outputs; constants stand where the program returns such.
    """
    if program.stage >= Stage.LOCAL:
        raise InvalidArgumentError("a local program runs with run_rank or run_lockstep")
    return _finish(_run(program, params, inputs, device))


def run_alone(
    program: Program, params: Mapping[str, Tensor], inputs: Sequence[Tensor], device: torch.device | None = None
) -> list[Any]:
    """Run the local program of a mesh of one rank, which has nobody to talk to."""
    return _finish(_run(program, params, inputs, device))


def _finish(run: RankRun) -> list[Any]:
    try:
        request = next(run)
    except StopIteration as stop:
        return list(stop.value)
    raise AssertionError(f"a program without other ranks asked for {type(request).__name__}")


def run_rank(
    program: Program,
    params: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    communicator: Communicator,
    device: torch.device | None = None,
) -> list[Any]:
    """Run one rank's local program. ``params`` are this rank's pieces, ``inputs`` whole."""
    run = _run(program, params, inputs, device)
    try:
        request = next(run)
        while True:
            request = run.send(_serve(request, communicator))
    except StopIteration as stop:
        return list(stop.value)


def run_lockstep(
    programs: Sequence[Program],
    params: Sequence[Mapping[str, Tensor]],
    inputs: Sequence[Tensor],
    device: torch.device | None = None,
) -> list[list[Any]]:
    """Run the local programs of all ranks in one process, from collective to collective.

    Args:
        programs: one per rank.
        params: pieces per rank.
        inputs: whole, the same for every rank.

    Returns:
        Flat outputs per rank.
    """
    runs = [_run(program, piece, inputs, device) for program, piece in zip(programs, params, strict=True)]
    outputs: list[list[Any] | None] = [None] * len(runs)
    answers: list[list[Tensor] | None] = [None] * len(runs)
    mesh = programs[0].mesh
    while True:
        requests: list[Request | None] = [None] * len(runs)
        for rank, run in enumerate(runs):
            with _as_rank(rank):
                try:
                    answer = answers[rank]
                    requests[rank] = next(run) if answer is None else run.send(answer)
                except StopIteration as stop:
                    outputs[rank] = list(stop.value)
        waiting = [request for request in requests if request is not None]
        if not waiting:
            return [output for output in outputs if output is not None]
        assert len(waiting) == len(runs), "ranks disagree on the number of collectives"
        for rank in range(len(runs)):
            group = mesh.group(rank, waiting[rank].axis)
            answers[rank] = _exchange(waiting, group, group.index(rank))


@contextmanager
def _as_rank(rank: int) -> Iterator[None]:
    token = _current_rank.set(rank)
    try:
        yield
    finally:
        _current_rank.reset(token)


def _serve(request: Request, communicator: Communicator) -> list[Tensor]:
    match request:
        case Exchange(axis, send, receive_numels):
            return communicator.exchange(axis, send, receive_numels)
        case AllGather(axis, value, numels):
            return communicator.all_gather(axis, value, numels)
        case AllReduce(axis, value):
            return [communicator.all_reduce(axis, value)]


def _exchange(requests: list[Request], group: Sequence[int], position: int) -> list[Tensor]:
    """What the rank at ``position`` of ``group`` receives, given the requests of all ranks."""
    members = [requests[rank] for rank in group]
    match requests[group[position]]:
        case Exchange():
            return [m.send[position].clone() for m in members if isinstance(m, Exchange)]
        case AllGather():
            return [m.value.clone() for m in members if isinstance(m, AllGather)]
        case AllReduce():
            total = torch.stack([m.value for m in members if isinstance(m, AllReduce)]).sum(0)
            return [total]


def _run(
    program: Program, params: Mapping[str, Tensor], inputs: Sequence[Tensor], device: torch.device | None
) -> RankRun:
    if len(inputs) != len(program.input_nodes):
        raise InvalidArgumentError(f"the program takes {len(program.input_nodes)} tensors, got {len(inputs)}")
    first = next(iter([*inputs, *params.values()]), None)
    device = device or (first.device if first is not None else torch.device("cpu"))
    values: dict[fx.Node, Any] = {}
    remaining_inputs = iter(inputs)
    last_use = {operand: node for node in program.nodes for operand in node.all_input_nodes}
    for node in program.nodes:
        if node.op == "placeholder":
            param = program.params.get(node.name)
            values[node] = params[param.source] if param else next(remaining_inputs)
        elif node.op == "call_function":
            values[node] = yield from _step(program, node, values, device)
            for operand in set(node.all_input_nodes):
                if last_use[operand] is node:
                    del values[operand]
    return [values[value] if isinstance(value, fx.Node) else value for value in program.output_values]


def _step(
    program: Program, node: fx.Node, values: Mapping[fx.Node, Any], device: torch.device
) -> Generator[Request, list[Tensor], Any]:
    if isinstance(node.target, dialect.PlacementOp) and program.stage >= Stage.LOCAL:
        operands = [values[operand] for operand in tensor_operands(node)]
        moves = placement_moves(program, node)
        return (yield from communicate(node.target, moves, operands))
    args, kwargs = map_arguments(node, lambda operand: values[operand])
    assert callable(node.target)
    return node.target(*on_device(args, device), **on_device(kwargs, device))


def placement_moves(program: Program, node: fx.Node) -> list[Move]:
    """The moves that a placement op makes, one per operand, as the program's rank sees them."""
    axis = node.args[1]
    assert isinstance(axis, str)
    moves = []
    for operand, result in zip(tensor_operands(node), result_types(node), strict=True):
        assert result is not None
        moves.append(Move(tensor_type(operand), result, axis, program.mesh, program.coordinates))
    return moves


def communicate(
    op: dialect.PlacementOp, moves: Sequence[Move], operands: Sequence[Tensor]
) -> Generator[Request, list[Tensor], tuple[Tensor, ...]]:
    """One collective on a row of tensors of one dtype, packed into one exchange."""
    axis = moves[0].axis
    if op is dialect.all_reduce:
        flat = _joined([operand.reshape(-1) for operand in operands])
        (total,) = yield AllReduce(axis, flat)
        parts = torch.split(total, [operand.numel() for operand in operands])
        return tuple(part.view(operand.shape) for part, operand in zip(parts, operands, strict=True))
    numels = [move.receive_numels() for move in moves]
    per_peer = [sum(column) for column in zip(*numels, strict=True)]
    if op is dialect.all_gather:
        received = yield AllGather(axis, _joined([operand.reshape(-1) for operand in operands]), per_peer)
    else:
        rows = [move.send_chunks(operand) for move, operand in zip(moves, operands, strict=True)]
        send = [_joined(column) for column in zip(*rows, strict=True)]
        received = yield Exchange(axis, send, per_peer)
    split = [torch.split(buffer, [row[peer] for row in numels]) for peer, buffer in enumerate(received)]
    return tuple(move.assemble([chunks[number] for chunks in split]) for number, move in enumerate(moves))


def _joined(chunks: Sequence[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))
