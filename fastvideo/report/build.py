"""Reads a report off a planned program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import fx, nn

import fastvideo_ir as ir
from fastvideo_ir import memory
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.verifier import exchange_axis

from ..backends import attention
from ..frontends.capture import Captured, ModuleCall
from ..passes.analysis import (
    Comparison,
    Gathers,
    NodeTimes,
    Whole,
    local_bytes,
    predict_eager_memory,
    weight_bytes,
    whole_ops,
)
from ..passes.planner.cost import Hardware
from ..planned import Planned
from ..settings import Settings
from .records import (
    AssumptionReport,
    AttentionReport,
    BlockReport,
    CacheReport,
    CollectiveReport,
    EagerCallReport,
    InvariantReport,
    MemoryReport,
    ProgramReport,
    ReplicatedReport,
    Report,
    StepReport,
)
from .sections import Section, sections_of

if TYPE_CHECKING:
    from ..specialization import Specialization


@dataclass(frozen=True)
class Subject:
    """A program to report on.

    Attributes:
        captured: how it came in.
        planned: at stage COMMUNICATING or before.
        pass_seconds: measured, per pass.
        seconds: measured, from capture to the last pass.
        first_call: measured, what these seconds were spent on.
        kept: what became of the capture on disk.
        remedy: what would make it fit; empty where it does.
        elsewhere: whether the program is for another machine, of which nothing can be asked here.
        invariant: indices of the inputs that stay the same over many calls.
        launching: how kernels are launched.
    """

    captured: Captured
    planned: Planned
    pass_seconds: tuple[tuple[str, float], ...]
    seconds: float
    first_call: tuple[tuple[str, float], ...] = ()
    kept: str = ""
    remedy: str = ""
    elsewhere: bool = False
    invariant: tuple[int, ...] = ()
    launching: str = ""


def report_of(model: nn.Module, settings: Settings, entries: Sequence[Specialization]) -> Report:
    """The report of a compiled model."""
    programs = [
        program_report(
            Subject(
                entry.captured,
                entry.planned,
                tuple(entry.timing.seconds),
                entry.watch.seconds,
                first_call=tuple(entry.watch.laps.items()),
                kept=entry.kept,
                invariant=entry.invariant.indices,
                launching=entry.executor.launching,
            )
        )
        for entry in entries
    ]
    if settings.cache is not None:
        counts = [entry.executor.cache_counts for entry in entries]
        programs = [
            replace(program, cache=CacheReport(settings.cache, count.computed, count.skipped))
            for program, count in zip(programs, counts, strict=True)
        ]
    return Report(type(model).__name__, settings.num_ranks, settings.executor, str(settings.device), tuple(programs))


def program_report(subject: Subject) -> ProgramReport:
    """The report of one signature."""
    captured, program, hardware = subject.captured, subject.planned.program, subject.planned.target.hardware
    work = _Work(program, hardware)
    blocks = tuple(work.block(section) for section in sections_of(program, work.times))
    return ProgramReport(
        inputs=tuple(
            f"{path}: {ir.tensor_type(node)}"
            for path, node in zip(captured.call.paths, program.input_nodes, strict=False)
        ),
        capture=captured.report.strategy,
        verified=captured.report.verified,
        seconds=subject.seconds,
        first_call=subject.first_call,
        kept=subject.kept,
        pass_seconds=subject.pass_seconds,
        mesh=str(program.mesh) if program.mesh.axes else "one rank",
        step=_step(blocks, hardware),
        memory=_memory(subject),
        blocks=blocks,
        attention=tuple(_attention(subject)),
        collectives=work.collectives(program.nodes),
        replicated=work.replicated(program.nodes),
        eager_calls=tuple(map(_eager_call, captured.report.eager_calls)),
        flops=work.flops,
        flops_per_rank=work.flops_per_rank(program.nodes),
        param_bytes_per_rank=tuple(weight_bytes(program, rank) for rank in range(program.mesh.num_ranks)),
        assumption=_assumption(subject),
        invariant=_invariant(subject),
        launching=subject.launching,
    )


def _step(blocks: Iterable[BlockReport], hardware: Hardware) -> StepReport:
    entries = list(blocks)
    one_rank = sum(block.repeats * block.one_rank_seconds for block in entries)
    compute = sum(block.repeats * block.compute_seconds for block in entries)
    communication = sum(block.repeats * block.communication_seconds for block in entries)
    seconds = compute + communication
    return StepReport(hardware.name, one_rank, compute, communication, seconds, one_rank / seconds if seconds else 1.0)


def _memory(subject: Subject) -> MemoryReport:
    program, target, found = subject.planned.program, subject.planned.target, subject.planned.memory
    verified = subject.captured.report.verified != "not verified"
    return MemoryReport(
        weights=tuple(weight_bytes(program, rank) for rank in range(program.mesh.num_ranks)),
        inputs=found.inputs,
        activations=found.activations,
        buffers=found.buffers,
        allowance=found.allowance,
        total=found.total,
        first_call=predict_eager_memory(subject.captured.program, device=target.device).total if verified else None,
        capacity=target.memory or target.hardware.memory,
        host=found.host,
        remedy=subject.remedy,
    )


def _attention(subject: Subject) -> Iterable[AttentionReport]:
    found: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    target = subject.planned.target
    for node in subject.planned.program.nodes:
        backend = attention.backend_of(node.target)
        if backend is not None and subject.elsewhere:
            found["whichever backend runs there", ()] += 1
        elif backend is not None:
            site = attention.AttentionSite.of(node, target.device)
            choice = attention.choose(site, target.attention_backend, fastest=target.fastest)
            found[backend.name, choice.refusals if choice.backend.name == backend.name else ()] += 1
    for (name, refusals), count in found.items():
        yield AttentionReport(name, count, refusals)


def _assumption(subject: Subject) -> AssumptionReport | None:
    assumption, paths = subject.planned.assumption, subject.captured.call.paths
    if assumption is None:
        return None
    return AssumptionReport(tuple(paths[index] for index in assumption.inputs_read), assumption.meanings)


def _invariant(subject: Subject) -> InvariantReport | None:
    program = subject.planned.program
    paths = subject.captured.call.paths
    names = tuple(paths[index] for index in subject.invariant)
    kept = [node for node in program.nodes if node.target is memory.keep]
    if not kept:
        return InvariantReport(names, 0, 0, 0) if names and not subject.planned.target.invariant else None
    largest = max(sum(local_bytes(program, node, rank) for node in kept) for rank in range(program.mesh.num_ranks))
    return InvariantReport(names, len(kept), largest, memory.MOST_INVARIANT)


def _eager_call(call: ModuleCall) -> EagerCallReport:
    reason = call.reason
    place = f"{reason.location.file}:{reason.location.line}"
    return EagerCallReport(call.path, place, "; ".join(filter(None, (reason.text, reason.inner))))


class _Work:
    """Figures of any stretch of one program."""

    def __init__(self, program: ir.Program, hardware: Hardware) -> None:
        self._program = program
        self._ranks = range(program.mesh.num_ranks)
        self.times = NodeTimes(program, hardware)
        self.flops = sum(self.times.flops(node) for node in program.nodes)
        self._gathers = Gathers(program, self.times, hardware)
        self._whole: dict[fx.Node, list[Whole]] = {}
        for entry in whole_ops(program, self.times, hardware):
            self._whole.setdefault(entry.node, []).append(entry)

    def block(self, section: Section) -> BlockReport:
        nodes, times = section.nodes, self.times
        return BlockReport(
            name=section.name,
            modules=section.modules,
            repeats=section.repeats,
            ops=len(nodes),
            stream=section.stream,
            collectives=self.collectives(nodes),
            replicated=self.replicated(nodes),
            flops=sum(times.flops(node) for node in nodes),
            flops_per_rank=self.flops_per_rank(nodes),
            one_rank_seconds=sum(times.one_rank(node) for node in nodes),
            compute_seconds=sum(times.compute(node) for node in nodes),
            communication_seconds=sum(times.communication(node) for node in nodes),
        )

    def flops_per_rank(self, nodes: Iterable[fx.Node]) -> tuple[int, ...]:
        totals = [0.0] * len(self._ranks)
        for node in nodes:
            flops = self.times.flops(node)
            for rank in self._ranks if flops else ():
                totals[rank] += flops * self.times.share(node, self._program.mesh.coordinates(rank))
        return tuple(int(total) for total in totals)

    def collectives(self, nodes: Iterable[fx.Node]) -> tuple[CollectiveReport, ...]:
        """Those that take longest first."""
        found: Counter[tuple[str, str, tuple[str, ...], int, float, Comparison | None]] = Counter()
        for node in nodes:
            axis = exchange_axis(node)
            if axis is not None:
                moves = tuple(map(str, self.times.exchanged(node)))
            elif node.target in ir.dialect.COLLECTIVES:
                axis = str(node.args[1])
                pairs = zip(tensor_operands(node), result_types(node), strict=True)
                moves = tuple(f"{ir.tensor_type(operand)} -> {result}" for operand, result in pairs)
            else:
                continue
            name = ir.ops.target_name(node.target)
            ways = self._gathers.compare(node) if node.target is ir.dialect.all_gather else None
            found[name, axis, moves, self.times.bytes_sent(node), self.times.communication(node), ways] += 1
        entries = [
            CollectiveReport(
                op,
                axis,
                moves,
                count,
                sent,
                seconds,
                *((ways.planned, ways.otherwise, ways.taken_whole_by) if ways else ()),
            )
            for (op, axis, moves, sent, seconds, ways), count in found.items()
        ]
        return tuple(sorted(entries, key=lambda entry: -entry.count * entry.seconds))

    def replicated(self, nodes: Iterable[fx.Node]) -> tuple[ReplicatedReport, ...]:
        """Those that take longest first."""
        groups: dict[tuple[object, ...], list[Whole]] = {}
        for node in nodes:
            for entry in self._whole.get(node, ()):
                key = (node.target, entry.axis, entry.reason)
                groups.setdefault(key, []).append(entry)
        entries = [self._replicated(group) for group in groups.values()]
        return tuple(sorted(entries, key=lambda entry: -entry.seconds))

    def _replicated(self, group: Sequence[Whole]) -> ReplicatedReport:
        first = group[0]
        divided = [entry.divided_seconds for entry in group if entry.divided_seconds is not None]
        return ReplicatedReport(
            op=ir.ops.target_name(first.node.target),
            axis=first.axis,
            count=len(group),
            share=sum(self.times.flops(entry.node) for entry in group) / max(self.flops, 1),
            reason=first.reason,
            seconds=sum(entry.seconds for entry in group),
            divided_seconds=sum(divided) if len(divided) == len(group) else None,
        )
