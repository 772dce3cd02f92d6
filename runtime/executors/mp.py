"""Ranks as processes of one host: NCCL between CUDA devices, gloo between CPU processes. Rank 0 is the caller."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir

from ..channel import ChannelClosedError
from ..launch import refuse_in_worker
from ..memories import CacheCounts, Scope
from ..numerics import numeric_settings
from ..process_groups import PeerLostError, ProcessGroups
from ..processes import WorkerProcesses
from ..rank import Rank
from ..shared_memory import share_tensors
from ..weights import check_params
from .base import WHOLE, Executor

_POLL_SECONDS = 20e-6


@dataclass(frozen=True)
class _Loaded:
    """A program on all ranks, its whole tensors by source, who makes its code, and whether its weights come and go."""

    program: ir.Program
    params: dict[str, Tensor]
    generator: str
    visiting: bool


class WorkerGroup:
    """Worker processes that run any number of programs for one owner, one call at a time.

    They start at once and in the background; the first :meth:`load` waits for them. When a rank fails, the call that
    meets it raises, every worker is killed, and the group is dead until :meth:`restart`. Without :meth:`close` the
    workers end with the group, with the interpreter, or with the caller's process, however that ends.

    Args:
        num_ranks: at least 2; rank 0 is the caller.
        device: of rank 0, see :func:`fastvideo.runtime.devices.resolve_device`; rank r has the r-th one from there.
        hang_timeout: seconds that a single collective, or on CUDA a whole run, may take before a rank counts as hung.
        plugins: modules (names, or paths of ``.py`` files) that every worker imports for what they register.

    Raises:
        OSError: a process cannot be started.
    """

    def __init__(
        self,
        num_ranks: int,
        device: torch.device,
        *,
        hang_timeout: float = 600.0,
        plugins: Sequence[str] = (),
    ) -> None:
        refuse_in_worker()
        if num_ranks < 2:
            raise ir.errors.InvalidArgumentError(f"a worker group has at least 2 ranks, got {num_ranks}")
        self.num_ranks = num_ranks
        self.device = device
        self._hang_timeout = hang_timeout
        self._plugins = list(plugins)
        self._programs: dict[int, _Loaded] = {}
        self._resting: set[int] = set()
        self._numbers = itertools.count()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._busy = self._closed = False
        self._start()

    @property
    def alive(self) -> bool:
        """Whether programs can run: not closed, no rank has failed, and this is the process that made the group."""
        return not self._closed and os.getpid() == self._pid and self._session.processes.failure is None

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the workers by rank."""
        return self._session.processes.pids

    def load(
        self,
        program: ir.Program,
        params: Mapping[str, Tensor],
        *,
        generator: str = "eager",
        visiting: bool = False,
    ) -> MpExecutor:
        """Put a program on all ranks.

        Weights are read now, and shared once for all programs: params of one source must be one tensor.

        Args:
            program: at stage COMMUNICATING, for a mesh of ``num_ranks`` ranks.
            params: whole tensors by :attr:`Param.source`. On the CPU their storages may move, in place.
            generator: who makes the code of its blocks: ``eager`` or ``inductor``.
            visiting: weights go to the devices at the first run, and again after each :meth:`MpExecutor.rest`.

        Raises:
            InvalidArgumentError: the program is for another number of ranks, or a param does not fit.
            FastVideoError: too little shared memory; the group is closed.
            WorkerError: a rank failed, now or earlier.
        """
        if program.mesh.num_ranks != self.num_ranks:
            raise ir.errors.InvalidArgumentError(
                f"a program for {program.mesh} cannot run on a group of {self.num_ranks} ranks"
            )
        with self._exclusive():
            whole = check_params(program, params)
            for other in self._programs.values():
                for source in whole.keys() & other.params.keys():
                    if whole[source].data_ptr() != other.params[source].data_ptr():
                        raise ir.errors.InvalidArgumentError(
                            f"param {source!r} is another tensor than in the programs loaded before",
                            hint="bring new weights to all of them with update_params",
                        )
            number = next(self._numbers)
            loaded = _Loaded(program, whole, generator, visiting)
            self._install(number, loaded)
            self._programs[number] = loaded
            return MpExecutor(self, number)

    def update_params(self, params: Mapping[str, Tensor]) -> None:
        """Read weights of loaded programs anew. Raises as :meth:`load` does.

        Args:
            params: whole tensors by source; what is left out stays as it is.
        """
        with self._exclusive():
            self._programs |= {
                number: replace(loaded, params=check_params(loaded.program, {**loaded.params, **params}))
                for number, loaded in self._programs.items()
            }
            with self._dispatching():
                self._command({"op": "forget"})
                self._session.rank.forget_weights()
                for number, loaded in self._programs.items():
                    self._share(loaded.params)
                    if number not in self._resting:
                        self._prepare(number)

    def restart(self) -> None:
        """Start all workers anew and give them every loaded program, whose executors then work again.

        Raises:
            FastVideoError: the group is closed.
            WorkerError: a rank failed while it started.
        """
        with self._lock:
            self._refuse_if_unusable()
            self._finish_session()
            self._resting.clear()
            self._start()
            with self._dispatching():
                for number, loaded in self._programs.items():
                    self._install(number, loaded)

    def close(self) -> None:
        """End all workers and wait for them. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            self._programs.clear()
            if self._busy:  # a signal handler closes the group in the middle of a call
                self._session.processes.fail(0, "closed the group in the middle of a call")
            self._finish_session()

    def _start(self) -> None:
        self._session = _Session.start(self.num_ranks, self.device, self._hang_timeout)
        self._finalizer = weakref.finalize(self, self._session.end)
        self._greeted = False
        paths = [os.path.abspath(path) for path in sys.path if path]
        with self._dispatching():
            for channel in self._session.processes.channels.values():
                channel.send({"op": "start", "paths": paths, "plugins": self._plugins})

    def _finish_session(self) -> None:
        self._finalizer()  # at most once; what it ends stays ended

    def _install(self, number: int, loaded: _Loaded) -> None:
        if not self._greeted:
            with self._dispatching():
                self._receive_done()
            self._greeted = True
        self._share(loaded.params)
        command = {
            "op": "load",
            "program": number,
            "text": ir.print_program(loaded.program),
            "numerics": numeric_settings(),
            "generator": loaded.generator,
        }
        self._command(command, lambda: self._session.rank.load(number, loaded.program, loaded.generator))
        if loaded.visiting:
            self._resting.add(number)
        else:
            self._prepare(number)

    def _share(self, whole: Mapping[str, Tensor]) -> None:
        """Let every rank see the whole tensors on the CPU; on CUDA rank 0 sends the pieces while all ranks prepare."""
        here = self._session.rank.weights.whole
        new = {source: tensor for source, tensor in whole.items() if source not in here}
        if self.device.type == "cpu" and new:
            new = {source: tensor.to(self.device) for source, tensor in new.items()}
            shared = share_tensors(new)
            try:
                self._command({"op": "share", "tensors": shared.manifest}, fds=shared.fds)
            finally:
                shared.close()
        here |= new

    def _prepare(self, number: int) -> None:
        self._command({"op": "prepare", "program": number}, lambda: self._session.rank.prepare(number))

    def _run(self, number: int, inputs: Sequence[Tensor], scope: Scope) -> list[Any]:
        with self._exclusive():
            rank = self._session.rank
            if number in self._resting:
                self._resting.discard(number)
                self._prepare(number)
            placed = rank.place(number, inputs)
            outputs: list[Any] = []
            message = {"op": "run", "program": number, "scope": asdict(scope)}
            self._command(message, lambda: outputs.extend(rank.run(number, scope, placed)))
            return outputs

    def _rest(self, number: int) -> None:
        with self._exclusive():
            if self._programs[number].visiting and number not in self._resting:
                self._resting.add(number)
                self._command({"op": "rest", "program": number}, lambda: self._session.rank.rest(number))

    def _drop(self, number: int) -> None:
        if not self.alive:
            self._programs.pop(number, None)
            return
        with self._exclusive():
            if self._programs.pop(number, None) is not None:
                rests = number in self._resting
                self._resting.discard(number)
                message = {"op": "drop", "program": number, "rests": rests}
                self._command(message, lambda: self._session.rank.drop(number, rests=rests))

    def _command(
        self, message: Mapping[str, Any], own_part: Callable[[], None] | None = None, fds: Sequence[int] = ()
    ) -> None:
        """Tell all workers, do what rank 0 has to do at the same time, and wait until all are done."""
        with self._dispatching():
            for channel in self._session.processes.channels.values():
                channel.send(message, fds)
            if own_part is not None:
                with _current_device(self.device):
                    own_part()
                    self._wait_for_device()
            self._receive_done()

    def _wait_for_device(self) -> None:
        """Wait for the device in a way that signals and dead ranks can end."""
        if self.device.type != "cuda":
            return
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        waiting_since = time.monotonic()
        while not event.query():
            time.sleep(_POLL_SECONDS)
            self._session.processes.check(waiting_since)

    def _receive_done(self) -> None:
        for channel in self._session.processes.channels.values():
            channel.receive()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One call at a time, on a group that works."""
        with self._lock:
            self._refuse_if_unusable()
            failure = self._session.processes.failure
            if failure is not None:
                raise ir.errors.WorkerError(
                    failure.rank, f"the ranks are stopped since this one failed: {failure.message}"
                )
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _refuse_if_unusable(self) -> None:
        if os.getpid() != self._pid:
            raise ir.errors.FastVideoError(
                f"these ranks belong to process {self._pid}; its fork {os.getpid()} cannot use them",
                hint="compile the model in the process that calls it",
            )
        if self._closed:
            raise ir.errors.FastVideoError("this worker group is closed")
        if self._busy:
            raise ir.errors.FastVideoError("a program cannot be called from within another call of the same ranks")

    @contextmanager
    def _dispatching(self) -> Iterator[None]:
        """While ranks work together an exception on any of them, this one included, ends them all."""
        processes = self._session.processes
        try:
            yield
        except BaseException as error:
            if isinstance(error, (PeerLostError, ChannelClosedError)):
                processes.wait_for_failure()
            known = processes.failure
            failure = known or processes.fail(0, f"raised {type(error).__name__}: {error}")
            self._finish_session()
            lost = isinstance(error, (PeerLostError, ChannelClosedError))
            if lost or (known is not None and isinstance(error, RuntimeError)):
                raise failure.error() from error
            raise


class MpExecutor(Executor):
    """One program on a :class:`WorkerGroup`; made by :meth:`WorkerGroup.load`."""

    takes_new_weights = True

    def __init__(self, group: WorkerGroup, number: int) -> None:
        self._group = group
        self._number = number
        self._closed = False

    def run(self, inputs: Sequence[Tensor], scope: Scope = WHOLE) -> list[Any]:
        if self._closed:
            raise ir.errors.FastVideoError("this executor is closed")
        return self._group._run(self._number, inputs, scope)

    @property
    def cache_counts(self) -> CacheCounts:
        return self._group._session.rank.cache_counts(self._number)

    @property
    def alive(self) -> bool:
        return not self._closed and self._group.alive

    def rest(self) -> None:
        if not self._closed and self._group.alive:
            self._group._rest(self._number)

    def close(self) -> None:
        """Take the program off all ranks. The group lives on."""
        if not self._closed:
            self._closed = True
            self._group._drop(self._number)


@dataclass(frozen=True)
class _Session:
    """The workers, from one start to their end, and the caller's part in them."""

    processes: WorkerProcesses
    groups: ProcessGroups
    rank: Rank

    @staticmethod
    def start(num_ranks: int, device: torch.device, hang_timeout: float) -> _Session:
        processes = WorkerProcesses(num_ranks, device, hang_timeout)
        groups = ProcessGroups(processes.directory, 0, num_ranks, device, processes.progress, processes.check)
        processes.on_failure = groups.abort
        return _Session(processes, groups, Rank(groups, processes.progress))

    def end(self) -> None:
        if os.getpid() != self.processes.owner_pid:
            return
        self.groups.close()
        self.processes.shutdown()


@contextmanager
def _current_device(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield
