"""A program's call as one CUDA graph, where launching its kernels one by one takes longer than they run.

A CUDA graph replays kernels on the memory they were recorded with, so inputs are copied to where the graph reads them,
and results away from where it writes them. Whether that pays is measured at the second call of a program, which finds
everything compiled: models of a few long kernels gain nothing, and the graph's memory would be lost.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir import fetching
from fastvideo_ir.block import Block
from fastvideo_ir.memory import MEMORY_OPS, Memory, keep
from fastvideo_ir.ops.registry import Trait, has_trait

from ..backends import attention

LONG_OP = 200e-6
"""Seconds per op from which launches hide behind kernels: then nothing is recorded."""
LEAST_GAIN = 0.02
"""Share of a call that a graph must save."""
LARGEST_DIFFERENCE = 1e-2
"""‖replayed − run‖ / ‖run‖: kernels that add in any order differ a little, a graph that reads stale memory a lot."""
_NAMESPACES = ("aten", "prims", "fv", "fv_attn")

Run = Callable[[Sequence[Tensor], Memory], list[Any]]
"""Runs the program on inputs, with what it keeps of invariant inputs."""


class StepGraph(Protocol):
    """A recorded call."""

    def replay(self, inputs: Sequence[Tensor], kept: Mapping[str, Tensor]) -> list[Any]:
        """The results for these inputs, in memory of their own."""


Record = Callable[[Run, Sequence[Tensor], Mapping[str, Tensor], torch.device], StepGraph]


@dataclass
class _Attempt:
    """What became of the graph for calls of one kind: with what is kept of invariant inputs, or without.

    Attributes:
        weights: aliases of what the graph reads, so that their memory stays, whatever becomes of the model.
    """

    called: bool = False
    graph: StepGraph | None = None
    verdict: str = ""
    weights: Sequence[Tensor] = ()


class StepGraphs:
    """Runs a program kernel by kernel, or as a graph once that was measured to be faster and to compute the same.

    Args:
        program: of one rank, as it is launched.
        run: runs it kernel by kernel.
        weights: tells what it reads besides its inputs.
        device: where.
        wish: True: as a graph, whatever it gains; None: where it is faster; False: never.
        refusal: why there must be no graph, beyond what the program says; empty where nothing speaks against it.
        record: makes a graph.

    Raises:
        InvalidArgumentError: a graph is wished for, and cannot be.
    """

    def __init__(
        self,
        program: ir.Program,
        run: Run,
        weights: Callable[[], Iterable[Tensor]],
        device: torch.device,
        *,
        wish: bool | None,
        refusal: str = "",
        record: Record | None = None,
    ) -> None:
        self._run = run
        self._weights = weights
        self._device = device
        self._wish = wish
        self._record = record or CudaStepGraph
        self._refusal = "cuda_graphs=False" if wish is False else refusal or _obstacle(program)
        self._launches = sum(map(_launches, program.nodes))
        self._attempts: dict[bool, _Attempt] = {}
        self._refuse_wish(self._refusal)

    def __call__(self, inputs: Sequence[Tensor], memory: Memory) -> list[Any]:
        """The program's results; see :class:`StepGraphs`."""
        fills = memory.invariant is not None and not memory.reusing
        if self._refusal or fills:
            return self._run(inputs, memory)
        attempt = self._attempts.setdefault(memory.reusing, _Attempt())
        if attempt.graph is not None:
            return attempt.graph.replay(inputs, memory.invariant or {})
        if attempt.called and not attempt.verdict:
            return self._try(attempt, inputs, memory)
        attempt.called = True
        return self._run(inputs, memory)

    def forget(self) -> None:
        """Let go of the graphs, whose weights go away; they are recorded again."""
        self._attempts.clear()

    @property
    def verdict(self) -> str:
        """How the program is launched and why, in words."""
        if self._refusal:
            return f"kernel by kernel: {self._refusal}"
        verdicts = dict.fromkeys(attempt.verdict for attempt in self._attempts.values() if attempt.verdict)
        return "; ".join(verdicts) or "kernel by kernel; whether a CUDA graph is faster is measured at the second call"

    def _try(self, attempt: _Attempt, inputs: Sequence[Tensor], memory: Memory) -> list[Any]:
        """Run a call, and find out whether later ones are better replayed."""
        seconds, results = self._timed(lambda: self._run(inputs, memory))
        if self._wish is None and seconds >= LONG_OP * self._launches:
            attempt.verdict = "kernel by kernel: kernels run longer than it takes to launch them"
            return results
        attempt.graph, finding = self._recorded(inputs, memory.invariant or {}, results, seconds)
        if attempt.graph is None:
            self._refuse_wish(finding)
        else:
            attempt.weights = [tensor.detach() for tensor in self._weights()]
        attempt.verdict = finding if attempt.graph else f"kernel by kernel: {finding}"
        return results

    def _recorded(
        self, inputs: Sequence[Tensor], kept: Mapping[str, Tensor], results: Sequence[Any], seconds: float
    ) -> tuple[StepGraph | None, str]:
        """A graph that gives ``results`` in less than ``seconds`` if there is one, and what was found."""
        try:
            graph = self._record(self._run, inputs, kept, self._device)
            replayed = graph.replay(inputs, kept)
            replay_seconds, _ = self._timed(lambda: graph.replay(inputs, kept))
        except RuntimeError as error:  # torch's for all that CUDA refuses, out of memory among it
            return None, f"it cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}"
        difference = _difference(replayed, results)
        if not difference <= LARGEST_DIFFERENCE:
            return None, f"replayed as a CUDA graph it computes something else (difference {difference:.1e})"
        times = f"{replay_seconds * 1e3:.1f} ms as one CUDA graph, {seconds * 1e3:.1f} ms kernel by kernel (measured)"
        worthwhile = self._wish or replay_seconds <= seconds * (1 - LEAST_GAIN)
        return (graph if worthwhile else None), times

    def _timed(self, call: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
        self._synchronize()
        started = time.perf_counter()
        results = call()
        self._synchronize()
        return time.perf_counter() - started, results

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _refuse_wish(self, reason: str) -> None:
        if self._wish and reason:
            raise ir.errors.InvalidArgumentError(
                f"cuda_graphs=True cannot be: {reason}", hint="leave cuda_graphs out: graphs are used where they help"
            )


class CudaStepGraph:
    """A call recorded by CUDA. All graphs of a device share one pool of memory, and take turns in it.

    Args:
        run: what is recorded; nothing of it is executed.
        inputs: as those of later calls in type.
        kept: what an earlier call kept of invariant inputs, by slot, as that of later calls in type.
        device: where.

    Raises:
        RuntimeError: CUDA cannot record the call: it reads values on the host, or memory is short.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor], kept: Mapping[str, Tensor], device: torch.device) -> None:
        self._inputs = [torch.empty_like(value) for value in inputs]
        self._kept = {slot: torch.empty_like(value) for slot, value in kept.items()}
        self._copied: list[weakref.ref[Tensor]] = []
        memory = Memory()
        if kept:
            memory.reusing, memory.invariant = True, self._kept
        self._pool = _Pool.of(device)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(device)
        with self._pool.turn():
            try:
                with torch.cuda.graph(self._graph, pool=self._pool.handle, capture_error_mode="thread_local"):
                    self._results = run(self._inputs, memory)
            finally:
                torch.cuda.set_stream(stream)  # which torch leaves out where recording fails

    def replay(self, inputs: Sequence[Tensor], kept: Mapping[str, Tensor]) -> list[Any]:
        with self._pool.turn():
            for place, value in zip(self._inputs, inputs, strict=True):
                place.copy_(value)
            values = list(kept.values())
            if not self._holds(values):
                for slot, place in self._kept.items():
                    place.copy_(kept[slot])
                self._copied = [weakref.ref(value) for value in values]
            self._graph.replay()
            return [value.clone() if isinstance(value, Tensor) else value for value in self._results]

    def _holds(self, values: Sequence[Tensor]) -> bool:
        """Whether these very tensors were copied last; what is kept is never written to."""
        return len(values) == len(self._copied) and all(
            reference() is value for reference, value in zip(self._copied, values, strict=True)
        )


@dataclass(eq=False)
class _Pool:
    """Memory of the graphs of one device; it ends with the last of them."""

    device: torch.device
    handle: Any = field(default_factory=torch.cuda.graph_pool_handle)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _last: torch.cuda.Event | None = None

    @staticmethod
    def of(device: torch.device) -> _Pool:
        """The pool of a device."""
        index = torch.cuda.current_device() if device.index is None else device.index
        with _pools_lock:
            return _pools.setdefault(index, _Pool(torch.device("cuda", index)))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else's graph runs on this memory meanwhile, on whatever stream."""
        with self._lock:
            if self._last is not None:
                torch.cuda.current_stream(self.device).wait_event(self._last)
            yield
            self._last = torch.cuda.current_stream(self.device).record_event()


_pools: weakref.WeakValueDictionary[int, _Pool] = weakref.WeakValueDictionary()
_pools_lock = threading.Lock()


def _obstacle(program: ir.Program) -> str:
    """Why a call of the program cannot be replayed; empty where nothing is known to be in the way."""
    for node in _calls(program.nodes):
        target = node.target
        name = ir.ops.target_name(target)
        backend = attention.backend_of(target)
        if target is ir.dialect.eager_call:
            return "a module of it stays Python"
        if target is fetching.fetch:
            return "its weights are fetched from the host"
        if target in MEMORY_OPS and target is not keep:
            return "each call decides what it computes"
        if has_trait(node, Trait.RANDOM):
            return f"{name} draws random numbers"
        if backend is not None and not backend.replayable:
            return f"attention backend {backend.name} does not say that it is replayable"
        if isinstance(target, torch._ops.OpOverload) and target.namespace not in _NAMESPACES:
            return f"{name} is not known to be replayable"
    return ""


def _calls(nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
    """Calls of ops, those within blocks among them."""
    for node in nodes:
        if isinstance(node.target, Block):
            yield from _calls(node.target.graph.nodes)
        elif node.op == "call_function":
            yield node


def _launches(node: fx.Node) -> int:
    """Ops of a call that compute something."""
    return sum(not has_trait(call, Trait.VIEW) for call in _calls([node]))


def _difference(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest ‖found − wanted‖ / ‖wanted‖ over the results; NaN where values are not finite."""
    pairs = [
        (a.double(), b.double()) for a, b in zip(found, wanted, strict=True) if isinstance(a, Tensor) and a.numel()
    ]
    parts = [(a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float32).tiny) for a, b in pairs]
    return float(torch.stack(parts).max()) if parts else 0.0
