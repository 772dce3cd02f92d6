"""What ``explain()`` tells: how a model was captured, planned and placed. As data, and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import fx, nn

import fastvideo_ir as ir
from fastvideo_ir.collectives import Move
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.verifier import rule_of, strategy_of

from .backends import attention
from .frontends.capture import ModuleCall
from .settings import Settings

if TYPE_CHECKING:
    from .compiler import Specialization


@dataclass(frozen=True)
class AttentionReport:
    """Sites that one backend runs.

    Attributes:
        backend: its name, or the op's where no backend was selected.
        sites: how many.
        refusals: backends that were asked before it, with their reasons.
    """

    backend: str
    sites: int
    refusals: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CollectiveReport:
    """Collectives of one kind that move the same types.

    Attributes:
        op: e.g. ``fv.all_to_all``.
        axis: the mesh axis.
        moves: ``source type -> target type`` per tensor.
        count: how many of them the program has.
        bytes_sent: per rank and collective, on the rank that sends most.
    """

    op: str
    axis: str
    moves: tuple[str, ...]
    count: int
    bytes_sent: int


@dataclass(frozen=True)
class ReplicatedReport:
    """Ops that every rank of an axis repeats.

    Attributes:
        op: its name.
        axis: the mesh axis.
        count: how many of them.
        share: of the program's FLOPs.
        reason: why.
    """

    op: str
    axis: str
    count: int
    share: float
    reason: str


@dataclass(frozen=True)
class EagerCallReport:
    """A module that stays Python and runs on rank 0 alone.

    Attributes:
        module: its path in the model.
        place: file and line of what made it so.
        reason: what was read there, and why no smaller module will do.
    """

    module: str
    place: str
    reason: str


@dataclass(frozen=True)
class ProgramReport:
    """One signature of a compiled model."""

    inputs: tuple[str, ...]
    capture: str
    verified: str
    seconds: float
    pass_seconds: tuple[tuple[str, float], ...]
    mesh: str
    attention: tuple[AttentionReport, ...]
    collectives: tuple[CollectiveReport, ...]
    flops: int
    flops_per_rank: tuple[int, ...]
    replicated: tuple[ReplicatedReport, ...]
    eager_calls: tuple[EagerCallReport, ...]
    param_bytes_per_rank: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """All of a compiled model."""

    model: str
    ranks: int
    executor: str
    device: str
    programs: tuple[ProgramReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.model} on {self.ranks} rank{'s' * (self.ranks > 1)} ({self.executor}, {self.device})"]
        if not self.programs:
            lines.append("  nothing compiled yet: a signature is compiled at its first call")
        for number, program in enumerate(self.programs, 1):
            lines += ["", f"signature {number}: {', '.join(program.inputs)}", *_program_lines(program)]
        return "\n".join(lines)


def _program_lines(program: ProgramReport) -> list[str]:
    slowest = max(program.pass_seconds, key=lambda item: item[1], default=("no pass", 0.0))
    lines = [
        f"  capture      {program.capture}, {program.verified}",
        f"  compiled in  {program.seconds:.1f} s (slowest pass: {slowest[0]}, {slowest[1]:.1f} s)",
        f"  mesh         {program.mesh}",
    ]
    for site in program.attention:
        refused = "; ".join(f"{name} refused: {reason}" for name, reason in site.refusals)
        lines.append(f"  attention    {site.sites} × {site.backend}" + (f" ({refused})" if refused else ""))
    for collective in program.collectives:
        lines.append(
            f"  {collective.count:3d} × {collective.op} over {collective.axis}, "
            f"{_size(collective.bytes_sent)} sent per rank"
        )
        lines += [f"        {move} × {times}" for move, times in Counter(collective.moves).items()]
    busiest, total = max(program.flops_per_rank, default=0), sum(program.flops_per_rank)
    if program.flops:
        lines.append(
            f"  work         {program.flops:.3g} FLOPs; busiest rank {busiest / program.flops:.1%}, "
            f"all ranks {total / program.flops:.1%}"
        )
    for entry in program.replicated:
        lines.append(
            f"  replicated   {entry.count} × {entry.op} ({entry.share:.2%} of FLOPs) over {entry.axis}: {entry.reason}"
        )
    for call in program.eager_calls:
        lines.append(f"  stays Python {call.module}, on rank 0: {call.place}: {call.reason}")
    lines.append("  weights      " + ", ".join(_size(size) for size in program.param_bytes_per_rank) + " per rank")
    return lines


def report_of(model: nn.Module, settings: Settings, entries: Iterable[Specialization]) -> Report:
    """The report of a compiled model."""
    return Report(
        type(model).__name__,
        settings.num_ranks,
        settings.executor,
        str(settings.device),
        tuple(_program_report(entry, settings) for entry in entries),
    )


def _program_report(entry: Specialization, settings: Settings) -> ProgramReport:
    program = entry.program
    ranks = range(program.mesh.num_ranks)
    replicated, per_rank = _work(program)
    captured = entry.captured
    return ProgramReport(
        inputs=tuple(
            f"{path}: {ir.tensor_type(node)}"
            for path, node in zip(captured.call.paths, program.input_nodes, strict=True)
        ),
        capture=captured.report.strategy,
        verified=captured.report.verified,
        seconds=entry.seconds,
        pass_seconds=tuple(entry.timing.seconds),
        mesh=str(program.mesh) if program.mesh.axes else "one rank",
        attention=tuple(_attention(program, settings)),
        collectives=tuple(_collectives(program)),
        flops=sum(_flops(node) for node in program.nodes),
        flops_per_rank=per_rank,
        replicated=replicated,
        eager_calls=tuple(_eager_call(call) for call in captured.report.eager_calls),
        param_bytes_per_rank=tuple(_param_bytes(program, rank) for rank in ranks),
    )


def _attention(program: ir.Program, settings: Settings) -> Iterable[AttentionReport]:
    found: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    for node in program.nodes:
        backend = attention.backend_of(node.target)
        if backend is not None:
            site = attention.AttentionSite.of(node, settings.device.type)
            found[backend.name, attention.choose(site, settings.attention_backend).refusals] += 1
    for (name, refusals), count in found.items():
        yield AttentionReport(name, count, refusals)


def _collectives(program: ir.Program) -> Iterable[CollectiveReport]:
    found: Counter[tuple[str, str, tuple[str, ...], int]] = Counter()
    for node in program.nodes:
        if node.target not in ir.dialect.COLLECTIVES:
            continue
        axis = str(node.args[1])
        pairs = list(zip(tensor_operands(node), result_types(node), strict=True))
        moves = tuple(f"{ir.tensor_type(operand)} -> {result}" for operand, result in pairs)
        sent = max(_bytes_sent(program, node, rank) for rank in range(program.mesh.num_ranks))
        found[ir.ops.target_name(node.target), axis, moves, sent] += 1
    for (op, axis, moves, sent), count in found.items():
        yield CollectiveReport(op, axis, moves, count, sent)


def _bytes_sent(program: ir.Program, node: fx.Node, rank: int) -> int:
    """Bytes that leave ``rank``; an all-reduce counts as a reduce-scatter and an all-gather."""
    axis = str(node.args[1])
    total = 0.0
    for operand, result in zip(tensor_operands(node), result_types(node), strict=True):
        assert result is not None
        move = Move(ir.tensor_type(operand), result, axis, program.mesh, program.mesh.coordinates(rank))
        total += move.numel_sent() * result.dtype.itemsize
    return int(total)


def _flops(node: fx.Node) -> int:
    op = ir.ops.of(node)
    return op.flops(node) if op is not None and op.flops is not None else 0


def _work(program: ir.Program) -> tuple[tuple[ReplicatedReport, ...], tuple[int, ...]]:
    """What is replicated along which axis, and the FLOPs of each rank."""
    ranks = range(program.mesh.num_ranks)
    per_rank = [0.0] * len(ranks)
    whole: Counter[tuple[str, str, str]] = Counter()
    cost: Counter[tuple[str, str, str]] = Counter()
    total = max(sum(_flops(node) for node in program.nodes), 1)
    for node in program.nodes:
        flops = _flops(node)
        if not flops and not _has_no_rule(node):
            continue
        shares = [1.0] * len(ranks)
        for axis, parts in program.mesh.axes:
            pieces = _pieces(node, axis, parts)
            if pieces is None:
                reason = "its op has no factor rule" if _has_no_rule(node) else "cheaper than to divide it"
                key = (ir.ops.target_name(node.target), axis, reason)
                whole[key] += 1
                cost[key] += flops
                continue
            for rank in ranks:
                shares[rank] *= pieces[program.mesh.coordinates(rank)[axis]]
        for rank in ranks:
            per_rank[rank] += flops * shares[rank]
    reports = tuple(
        ReplicatedReport(name, axis, count, cost[name, axis, reason] / total, reason)
        for (name, axis, reason), count in whole.items()
    )
    return reports, tuple(int(flops) for flops in per_rank)


def _eager_call(call: ModuleCall) -> EagerCallReport:
    reason = call.reason
    return EagerCallReport(
        call.path,
        f"{reason.location.file}:{reason.location.line}",
        "; ".join(filter(None, (reason.text, reason.inner))),
    )


def _has_no_rule(node: fx.Node) -> bool:
    if node.op != "call_function" or is_getitem(node) or isinstance(node.target, ir.dialect.PlacementOp):
        return False
    if runs_on_first_rank(node):
        return False
    op = ir.ops.of(node)
    return bool(tensor_operands(node)) and (op is None or op.rule is None)


def _pieces(node: fx.Node, axis: str, parts: int) -> Sequence[float] | None:
    """Share of the op's work per rank of the axis; None where every rank does all of it."""
    operands = tuple(ir.tensor_type(operand) for operand in tensor_operands(node))
    strategy = strategy_of(rule_of(node), operands, result_types(node), axis)
    if strategy is None or strategy.divided is None:
        return None
    layout = strategy.divided
    return [layout.local_size([(parts, index)]) / layout.size for index in range(parts)]


def _param_bytes(program: ir.Program, rank: int) -> int:
    at = program.mesh.coordinates(rank)
    total = 0
    for node in program.param_nodes:
        kind = ir.tensor_type(node)
        size = kind.dtype.itemsize
        for length in kind.local_shape(program.mesh, at):
            size *= length
        total += size
    return total


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
