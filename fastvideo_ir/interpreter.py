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

from . import dialect, fetching
from .block import Block
from .errors import InvalidArgumentError
from .graph import map_arguments, on_device
from .memory import MEMORY_OPS, Memory
from .pending import Pending
from .program import Program, Stage, tensor_type
from .types import local_slice


class Communicator(Protocol):
    """Exchanges flat buffers between the ranks of one mesh axis. Pieces lie end to end, in axis order.

    Transfers may be under way when a method returns; all peers start theirs in the same order.
    """

    def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor | Pending:
        """All-to-all with uneven pieces, this rank's own among them."""

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor | Pending:
        """``value`` of every peer; sizes may differ."""

    def all_reduce(self, axis: str, value: Tensor) -> Tensor | Pending:
        """Sum over the peers, as a new tensor of the same shape."""

    def broadcast(self, value: Tensor) -> Tensor:
        """The value of rank 0; the others give memory of its shape and dtype, which may be used for it."""


@dataclass(frozen=True)
class Exchange:
    """A request of a running rank to its communicator."""

    axis: str
    send: Tensor
    send_numels: list[int]
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


@dataclass(frozen=True)
class Broadcast:
    value: Tensor


Request = Exchange | AllGather | AllReduce | Broadcast
RankRun = Generator[Request, Tensor | Pending, list[Any]]
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
        params: whole tensors by :attr:`Param.key`.
        inputs: flat, in the order of ``program.input_nodes``.
        device: what the program's device token stands for; the first input's or param's device where None.

    Returns:
        The flat outputs; constants stand where the program returns such.
    """
    if program.stage >= Stage.LOCAL:
        raise InvalidArgumentError("a local program runs with run_rank or run_lockstep")
    try:
        next(_run(program, params, inputs, device))
    except StopIteration as stop:
        return list(stop.value)
    raise AssertionError("a program with global shapes asked for communication")


class Alone:
    """The communicator of a mesh of one rank: whatever it sends comes back."""

    def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor:
        return send

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor:
        return value

    def all_reduce(self, axis: str, value: Tensor) -> Tensor:
        return value

    def broadcast(self, value: Tensor) -> Tensor:
        return value


def run_rank(
    program: Program,
    params: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    communicator: Communicator,
    device: torch.device | None = None,
    memory: Memory | None = None,
) -> list[Any]:
    """Run one rank's local program. ``params`` are this rank's pieces, ``inputs`` whole, ``memory`` what it keeps."""
    run = _run(program, params, inputs, device, memory)
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
    memories: Sequence[Memory] | None = None,
) -> list[list[Any]]:
    """Run the local programs of all ranks in one process, from collective to collective.

    Args:
        programs: one per rank.
        params: pieces per rank.
        inputs: whole, the same for every rank.
        memories: what each rank keeps.

    Returns:
        Flat outputs per rank.
    """
    kept: Sequence[Memory | None] = memories or [None] * len(programs)
    runs = [
        _run(program, piece, inputs, device, memory)
        for program, piece, memory in zip(programs, params, kept, strict=True)
    ]
    outputs: list[list[Any] | None] = [None] * len(runs)
    answers: list[Tensor | None] = [None] * len(runs)
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
        for rank, request in enumerate(waiting):
            group = range(len(runs)) if isinstance(request, Broadcast) else mesh.group(rank, request.axis)
            answers[rank] = _exchange(waiting, group, group.index(rank))


@contextmanager
def _as_rank(rank: int) -> Iterator[None]:
    token = _current_rank.set(rank)
    try:
        yield
    finally:
        _current_rank.reset(token)


def _serve(request: Request, communicator: Communicator) -> Tensor | Pending:
    match request:
        case Exchange(axis, send, send_numels, receive_numels):
            return communicator.exchange(axis, send, send_numels, receive_numels)
        case AllGather(axis, value, numels):
            return communicator.all_gather(axis, value, numels)
        case AllReduce(axis, value):
            return communicator.all_reduce(axis, value)
        case Broadcast(value):
            return communicator.broadcast(value)


def _exchange(requests: list[Request], group: Sequence[int], position: int) -> Tensor:
    """What the rank at ``position`` of ``group`` receives, given the requests of all ranks."""
    members = [requests[rank] for rank in group]
    match requests[group[position]]:
        case Exchange():
            return torch.cat([torch.split(m.send, m.send_numels)[position] for m in members if isinstance(m, Exchange)])
        case AllGather():
            return torch.cat([m.value for m in members if isinstance(m, AllGather)])
        case AllReduce(_, value):
            return torch.stack([m.value for m in members if isinstance(m, AllReduce)]).sum(0).to(value.dtype)
        case Broadcast():
            first = members[0]
            assert isinstance(first, Broadcast), "ranks disagree on the order of collectives"
            return first.value


def _run(
    program: Program,
    params: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    device: torch.device | None,
    memory: Memory | None = None,
) -> RankRun:
    if len(inputs) != len(program.input_nodes):
        raise InvalidArgumentError(f"the program takes {len(program.input_nodes)} tensors, got {len(inputs)}")
    first = next(iter([*inputs, *params.values()]), None)
    device = device or (first.device if first is not None else torch.device("cpu"))
    values = _Values()
    if memory is not None:
        memory.begin()
    remaining_inputs = iter(inputs)
    last_use = {operand: node for node in program.nodes for operand in node.all_input_nodes}
    for node in program.nodes:
        if node.op == "placeholder":
            param = program.params.get(node.name)
            values[node] = params[param.key] if param else _input(program, node, next(remaining_inputs))
        elif node.op == "call_function":
            if memory is not None and node.target in MEMORY_OPS:
                values[node] = memory.perform(node, values.__getitem__)
            elif memory is None or not memory.leaves_out(node):
                values[node] = yield from _step(program, node, values, device)
            for operand in set(node.all_input_nodes):
                if last_use[operand] is node:
                    values.drop(operand)
    outputs = [values[value] if isinstance(value, fx.Node) else value for value in program.output_values]
    for node in values:
        values[node]  # no transfer outlives its run, whether its result is read or not
    return outputs


class _Values(dict[fx.Node, Any]):
    """What nodes have yielded. Reading the result of a transfer awaits it."""

    def __getitem__(self, node: fx.Node) -> Any:
        value = super().__getitem__(node)
        if isinstance(value, Pending):
            value = self[node] = value.wait()
        return value

    def drop(self, node: fx.Node) -> None:
        """Free a value. A transfer that nobody has read is awaited first: it would arrive in memory of others."""
        value = self.pop(node, None)
        if isinstance(value, Pending):
            value.finish()


def _input(program: Program, node: fx.Node, value: Tensor) -> Tensor:
    """What this rank takes of an input; callers give it whole."""
    if program.rank is None:
        return value
    return local_slice(value, tensor_type(node), program.mesh, program.coordinates)


def _step(
    program: Program, node: fx.Node, values: Mapping[fx.Node, Any], device: torch.device
) -> Generator[Request, Tensor | Pending, Any]:
    if isinstance(node.target, Block):  # many operands, all of them tensors: what makes up a lowered program
        return node.target(*[values[operand] for operand in node.args])  # type: ignore[index]
    args, kwargs = map_arguments(node, lambda operand: values[operand])
    match node.target:
        case dialect.exchange:
            return (yield Exchange(args[1], args[0], args[2], args[3]))
        case dialect.gather:
            return (yield AllGather(args[1], args[0], args[2]))
        case dialect.sum_over:
            return (yield AllReduce(args[1], args[0]))
        case dialect.broadcast:
            return (yield Broadcast(args[0]))
        case fetching.fetch:
            return fetching.start(args[0], device)
        case dialect.eager_call if args[1] in program.functions:
            return tuple(program.functions[args[1]](args[0]))
    assert callable(node.target)
    return node.target(*on_device(args, device), **on_device(kwargs, device))
