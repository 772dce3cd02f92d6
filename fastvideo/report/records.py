"""What ``explain()`` tells, as data. Bytes, seconds and FLOPs; seconds are modelled unless they are called measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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
class AssumptionReport:
    """What a program takes for granted of its inputs' values; a call for which it is not so gets another program.

    Attributes:
        inputs: the arguments whose values are looked at.
        meanings: what is so, and what became of it.
    """

    inputs: tuple[str, ...]
    meanings: tuple[str, ...]


@dataclass(frozen=True)
class CacheReport:
    """First-block caching.

    Attributes:
        threshold: the relative change below which blocks are left out.
        computed: calls since the last reset that computed all blocks.
        skipped: calls that left blocks out.
    """

    threshold: float
    computed: int
    skipped: int


@dataclass(frozen=True)
class CollectiveReport:
    """Collectives of one kind that move the same types, or attentions whose keys and values travel.

    Attributes:
        op: e.g. ``fv.all_to_all``.
        axis: the mesh axis.
        moves: ``source type -> target type`` per tensor; in a ring, the type of what travels.
        count: how many of them.
        bytes_sent: per rank and collective, on the rank that sends most.
        seconds: per collective; of a ring, what its transfers add to the attention.
        with_readers: of an all-gather, seconds of it and of the ops that read what it gathers; None where it
            only is a step to another placement.
        otherwise: what these ops would take in the cheapest way that needs no such gather; None where there is none.
        taken_whole_by: the ops that then need all of it.
    """

    op: str
    axis: str
    moves: tuple[str, ...]
    count: int
    bytes_sent: int
    seconds: float
    with_readers: float | None = None
    otherwise: float | None = None
    taken_whole_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class InvariantReport:
    """What is kept from call to call, since it follows from arguments that stay the same.

    Attributes:
        inputs: these arguments.
        values: how many are kept; none where memory is too short for them.
        nbytes: of all of them, on the rank that keeps most.
        most: sets of arguments for which they are kept at most.
    """

    inputs: tuple[str, ...]
    values: int
    nbytes: int
    most: int


@dataclass(frozen=True)
class ReplicatedReport:
    """Ops of one kind that every rank of an axis repeats, for the same reason.

    Attributes:
        op: its name.
        axis: the mesh axis.
        count: how many of them.
        share: of the program's FLOPs.
        reason: why.
        seconds: of all of them, on every rank.
        divided_seconds: of all of them if they were divided, exchanges included; None where they cannot be.
    """

    op: str
    axis: str
    count: int
    share: float
    reason: str
    seconds: float
    divided_seconds: float | None


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
class BlockReport:
    """One stretch of the program that occurs ``repeats`` times; figures are of one occurrence.

    Attributes:
        name: module path of the first and the last of them, or "outside the blocks".
        modules: where the time goes, for what is outside of blocks.
        repeats: how often it occurs.
        ops: calls in it.
        stream: types of what one block hands to the next.
        collectives: what the ranks exchange.
        replicated: what they repeat.
        flops: as the model has them.
        flops_per_rank: after division.
        one_rank_seconds: on one rank.
        compute_seconds: on the busiest rank.
        communication_seconds: of all its collectives.
    """

    name: str
    modules: tuple[str, ...]
    repeats: int
    ops: int
    stream: tuple[str, ...]
    collectives: tuple[CollectiveReport, ...]
    replicated: tuple[ReplicatedReport, ...]
    flops: int
    flops_per_rank: tuple[int, ...]
    one_rank_seconds: float
    compute_seconds: float
    communication_seconds: float

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.communication_seconds


@dataclass(frozen=True)
class StepReport:
    """One call of the program, by the planner's cost model.

    Attributes:
        hardware: the device that was modelled.
        one_rank_seconds: on one rank.
        compute_seconds: on the busiest rank.
        communication_seconds: of all collectives.
        seconds: the two together.
        speedup: one rank's seconds over these.
    """

    hardware: str
    one_rank_seconds: float
    compute_seconds: float
    communication_seconds: float
    seconds: float
    speedup: float


@dataclass(frozen=True)
class MemoryReport:
    """Peak bytes on the rank that needs most.

    Attributes:
        weights: on each rank.
        inputs: of one call.
        activations: the most that is alive at once, buffers of collectives among them.
        buffers: what the largest collective sends and receives.
        allowance: for what stands beside torch's allocator: CUDA's context, workspaces, NCCL.
        total: weights, inputs, activations and allowance.
        first_call: at least, on rank 0 while a capture is checked against the model, which then runs whole; None
            without check.
        capacity: what one device may give: the limit that was set or measured, else all that the modelled one has.
        host: weights in the host's memory, which every call fetches; what is on its way counts as activations.
        remedy: settings with which it would fit, in words; empty where it does.
    """

    weights: tuple[int, ...]
    inputs: int
    activations: int
    buffers: int
    allowance: int
    total: int
    first_call: int | None
    capacity: int
    host: int = 0
    remedy: str = ""


@dataclass(frozen=True)
class ProgramReport:
    """One signature of a compiled model.

    Attributes:
        seconds: measured, from the look into the cache to weights on their ranks.
        first_call: what these were spent on.
        pass_seconds: measured, per pass; none where the plan was read from disk.
        kept: what became of the capture on disk: read, made anew and kept, or not kept and why.
        launching: how kernels are launched, with measured times; empty where that is not decided by measuring.
    """

    inputs: tuple[str, ...]
    capture: str
    verified: str
    seconds: float
    pass_seconds: tuple[tuple[str, float], ...]
    mesh: str
    step: StepReport
    memory: MemoryReport
    blocks: tuple[BlockReport, ...]
    attention: tuple[AttentionReport, ...]
    collectives: tuple[CollectiveReport, ...]
    replicated: tuple[ReplicatedReport, ...]
    eager_calls: tuple[EagerCallReport, ...]
    flops: int
    flops_per_rank: tuple[int, ...]
    param_bytes_per_rank: tuple[int, ...]
    cache: CacheReport | None = None
    first_call: tuple[tuple[str, float], ...] = ()
    kept: str = ""
    assumption: AssumptionReport | None = None
    invariant: InvariantReport | None = None
    launching: str = ""


@dataclass(frozen=True)
class Report:
    """All of a compiled, or planned, model."""

    model: str
    ranks: int
    executor: str
    device: str
    programs: tuple[ProgramReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        from .text import render  # which reads these records

        return render(self)
