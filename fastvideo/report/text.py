"""A report as text: the step, its memory, then block by block; what takes longest comes first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from ..passes.analysis.replication import NO_RULE
from .records import (
    AssumptionReport,
    BlockReport,
    CacheReport,
    CollectiveReport,
    InvariantReport,
    MemoryReport,
    ProgramReport,
    ReplicatedReport,
    Report,
    StepReport,
)

_TAKERS = {"fv.eager_call": "a module that stays Python", "output": "the result"}
"""Ops whose names would say nothing to a user."""

NOTABLE = 0.005
"""Share of a block's time from which a replicated op has a line of its own."""
LEAST_SHARE = 5e-5
"""Share of the program's FLOPs that is shown; of less, the time is."""
LEAST_SECONDS = 1e-7
LABEL = 18


def render(report: Report) -> str:
    """The whole report."""
    lines = [f"{report.model} on {count(report.ranks, 'rank')} ({report.executor}, {report.device})"]
    if not report.programs:
        lines.append("  nothing compiled yet: a signature is compiled at its first call")
    for number, program in enumerate(report.programs, 1):
        lines += ["", f"signature {number}: {', '.join(program.inputs)}", *_program(program)]
    return "\n".join(lines)


def _program(program: ProgramReport) -> list[str]:
    ranks = len(program.param_bytes_per_rank)
    lines = [
        *_line("step", _step(program.step, ranks)),
        *_line("memory", _memory(program.memory)),
        *(_line("work", [_work(program.flops, program.flops_per_rank)]) if program.flops else []),
        *_line("mesh", [program.mesh]),
        *_line("attention", _attention(program)),
        *_line("launches", [program.launching] if program.launching else []),
        *_line("assumed", _assumed(program.assumption)),
        *_line("kept", _kept(program.invariant)),
        *_line("cache", _cache(program.cache)),
        *_line("capture", [_capture(program)]),
        *_line("compile time", _compile_time(program)),
        *_line("stays Python", [f"{e.module}, on rank 0: {e.place}: {e.reason}" for e in program.eager_calls]),
    ]
    for block in program.blocks:
        lines += ["", *_block(block, program.step)]
    return lines


def _step(step: StepReport, ranks: int) -> list[str]:
    if ranks == 1:
        return [f"{seconds(step.seconds)}, modelled on {step.hardware}"]
    faster = f"{step.speedup:.2f} × faster" if step.speedup >= 1 else f"{1 / step.speedup:.2f} × slower"
    return [
        f"{seconds(step.seconds)} on {ranks} ranks, {seconds(step.one_rank_seconds)} on one: {faster}, "
        f"modelled on {step.hardware}",
        f"{seconds(step.compute_seconds)} compute, {seconds(step.communication_seconds)} communication",
    ]


def _assumed(assumption: AssumptionReport | None) -> list[str]:
    if assumption is None:
        return []
    read = ", ".join(assumption.inputs)
    watched = [f"as the values of {read} say, looked at whenever they may have changed"] if read else []
    return [*assumption.meanings, *watched]


def _kept(invariant: InvariantReport | None) -> list[str]:
    if invariant is None:
        return []
    if not invariant.values:
        return [f"nothing for {', '.join(invariant.inputs)}: memory is too short"]
    values = f"{count(invariant.values, 'value')}, {size(invariant.nbytes)} per rank of the memory above"
    return [f"{values}, for each of the last {invariant.most} of {', '.join(invariant.inputs)}"]


def _cache(cache: CacheReport | None) -> list[str]:
    if cache is None:
        return []
    return [f"first block, threshold {cache.threshold:g}: {cache.computed} calls computed all, {cache.skipped} skipped"]


def _memory(memory: MemoryReport) -> list[str]:
    largest, smallest = max(memory.weights), min(memory.weights)
    least = "" if largest == smallest else f" ({size(smallest)} on the rank with least)"
    excess = "" if memory.total <= memory.capacity else f", MORE than the {size(memory.capacity)} of one device"
    parts = [f"weights {size(largest)}{least}", f"activations {size(memory.activations)}"]
    parts.append(f"inputs {size(memory.inputs)}")
    if memory.allowance:
        parts.append(f"CUDA and its libraries {size(memory.allowance)}")
    lines = [f"{size(memory.total)} per rank at most{excess}", ", ".join(parts)]
    if memory.host:
        lines.append(f"{size(memory.host)} of weights in the host's memory, fetched block by block at every call")
    if memory.remedy:
        lines.append(memory.remedy)
    if memory.first_call is not None and memory.first_call > memory.total:
        lines.append(f"{size(memory.first_call)} or more on rank 0 while the first call is checked against the model")
    return lines


def _work(flops: int, per_rank: Sequence[int]) -> str:
    if len(per_rank) == 1:
        return f"{_flops(flops)}"
    busiest, total = max(per_rank) / flops, sum(per_rank) / flops
    return f"{_flops(flops)}: busiest rank {busiest:.1%}, all ranks {total:.1%}"


def _attention(program: ProgramReport) -> Iterable[str]:
    for site in program.attention:
        refused = "; ".join(f"{name} refused: {reason}" for name, reason in site.refusals)
        yield f"{site.sites} × {site.backend}" + (f" ({refused})" if refused else "")


def _capture(program: ProgramReport) -> str:
    slowest = max(program.pass_seconds, key=lambda item: item[1], default=None)
    plan = "plan read from disk"
    if slowest is not None:
        passes = sum(seconds for _, seconds in program.pass_seconds)
        plan = f"{passes:.1f} s of it in passes, the slowest: {slowest[0]}, {slowest[1]:.1f} s"
    return f"{program.capture}, {program.verified}; compiled in {program.seconds:.1f} s ({plan})"


def _compile_time(program: ProgramReport) -> list[str]:
    parts = [f"{name} {value:.1f} s" for name, value in program.first_call]
    return [text for text in (", ".join(parts), program.kept) if text]


def _block(block: BlockReport, step: StepReport) -> list[str]:
    head = f"{block.repeats} × {block.name}" if block.repeats > 1 else block.name
    if block.modules:
        head += f" ({', '.join(block.modules)})"
    share = block.repeats * block.seconds / step.seconds if step.seconds else 0.0
    each = " each" if block.repeats > 1 else ""
    time = f"{share:.0%} of the step, {seconds(block.seconds)}{each}"
    if block.communication_seconds:
        time += f": {seconds(block.compute_seconds)} compute, {seconds(block.communication_seconds)} communication"
    lines = [f"  {head}", *_inner("time", [time])]
    if block.flops:
        lines += _inner("work", [_work(block.flops, block.flops_per_rank)])
    lines += _inner("token stream", _times(block.stream))
    return lines + _inner("collectives", _collectives(block.collectives)) + _inner("replicated", _replicated(block))


def _collectives(entries: Sequence[CollectiveReport]) -> list[str]:
    rows = [
        (f"{e.count} × {e.op} over {e.axis}", f"{size(e.bytes_sent)} sent per rank", seconds(e.seconds), _gain(e))
        for e in entries
    ]
    lines = []
    for row, entry in zip(aligned(rows), entries, strict=True):
        lines += [row, *(f"    {move}" for move in _times(entry.moves))]
    return lines


def _gain(entry: CollectiveReport) -> str:
    """Whether a gather is the cheapest way to run what reads it, or who leaves no choice."""
    if entry.taken_whole_by:
        return f"taken whole by {', '.join(_TAKERS.get(op, op) for op in entry.taken_whole_by)}"
    if entry.with_readers is None or entry.otherwise is None:
        return ""
    word = "cheaper" if entry.with_readers <= entry.otherwise else "by itself dearer"
    return f"{word} than without, {seconds(entry.with_readers)} against {seconds(entry.otherwise)}"


def _replicated(block: BlockReport) -> list[str]:
    notable = [e for e in block.replicated if e.seconds >= NOTABLE * block.seconds or e.reason == NO_RULE]
    rest = [entry for entry in block.replicated if entry not in notable]
    lines = aligned([(f"{e.count} × {e.op} over {e.axis}", _share(e), _reason(e)) for e in notable])
    if rest:
        ops, time = sum(entry.count for entry in rest), sum(entry.seconds for entry in rest)
        reasons = ", ".join(dict.fromkeys(entry.reason for entry in rest))
        lines.append(f"{count(ops, 'small op')}, {seconds(time)} in all: {reasons}")
    return lines


def _share(entry: ReplicatedReport) -> str:
    return f"{entry.share:.2%} of FLOPs" if entry.share >= LEAST_SHARE else seconds(entry.seconds)


def _reason(entry: ReplicatedReport) -> str:
    if entry.divided_seconds is None:
        return entry.reason
    return f"{entry.reason} ({seconds(entry.seconds)} against {seconds(entry.divided_seconds)})"


def _times(texts: Iterable[str]) -> list[str]:
    return [f"{text} × {times}" if times > 1 else text for text, times in Counter(texts).items()]


def _line(label: str, texts: Iterable[str], indent: int = 2) -> list[str]:
    """Texts under each other, the label before the first."""
    labels = itertools.chain([label], itertools.repeat(""))
    return [f"{'':{indent}s}{name:{LABEL - indent}s}{text}" for name, text in zip(labels, texts, strict=False)]


def _inner(label: str, texts: Iterable[str]) -> list[str]:
    return _line(label, texts, indent=4)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns of equal width; the last one is left as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}s}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def count(number: int, thing: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def size(nbytes: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GiB"


def seconds(value: float) -> str:
    """Seconds with the unit that gives the shortest number."""
    if 0 < value < LEAST_SECONDS:
        return f"<{LEAST_SECONDS * 1e6:.1f} µs"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{value * factor:.{_digits(value * factor)}f} {unit}"
    return f"{value:.2f} s"


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1


def _flops(flops: float) -> str:
    for unit in ("", "K", "M", "G", "T"):
        if flops < 1000:
            return f"{flops:.3g} {unit}FLOP"
        flops /= 1000
    return f"{flops:.3g} PFLOP"
