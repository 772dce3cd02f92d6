"""The worker processes of one group: started, watched, and ended, whatever happens to them or to the caller."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

import fastvideo_ir as ir

from .channel import Channel, ChannelClosedError
from .launch import launch_worker
from .progress import Progress
from .reports import describe_death, log_tail, read_report

_GRACE_SECONDS = 3.0
"""How long the death of a rank is waited for after another rank has lost its connection to it."""
_EXIT_SECONDS = 5.0
"""How long a worker may take to end by itself when it is told to, and again after SIGTERM."""
_STACK_SECONDS = 0.5
"""How long a hung worker may take to write down where it is."""


_DIRECTORY = "fastvideo-"
_LOCK = "lock"


def _make_directory() -> tuple[Path, IO[str]]:
    """A private directory, and the lock that says that its owner lives. Those that nobody holds are removed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_DIRECTORY}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open() as file:  # another user's, or one that still lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_DIRECTORY))
    held = (directory / f"{_LOCK}.new").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    (directory / f"{_LOCK}.new").rename(directory / _LOCK)  # never to be seen unlocked
    return directory, held


@dataclass(frozen=True)
class Failure:
    """Why a group of workers is dead: the rank that failed first, and all that is known of it."""

    rank: int
    message: str

    def error(self) -> ir.errors.WorkerError:
        return ir.errors.WorkerError(self.rank, self.message)


class WorkerProcesses:
    """Ranks 1 … ``num_ranks - 1`` as subprocesses of the caller, which is rank 0.

    One thread starts and watches them. As soon as one dies the others are killed, ``on_failure`` is called, and every
    wait of the caller that goes through :meth:`check` raises.

    Args:
        num_ranks: at least 2.
        device: the device of rank 0.
        hang_timeout: seconds that the caller waits for a rank that shows no sign of life.

    Attributes:
        directory: private to the group; holds the rendezvous file, logs and error reports. Removed at the end.
        channels: the control channel to every worker, by rank.
        failure: what went wrong, None as long as nothing did.
        progress: how far every rank has come.

    Raises:
        OSError: a process cannot be started.
    """

    def __init__(self, num_ranks: int, device: torch.device, hang_timeout: float) -> None:
        self.num_ranks = num_ranks
        self.hang_timeout = hang_timeout
        self.directory, self._lock_file = _make_directory()
        self.channels: dict[int, Channel] = {}
        self.failure: Failure | None = None
        self.on_failure: Callable[[], None] | None = None
        Progress.create(self.directory / "progress", num_ranks)
        self.progress = Progress(self.directory / "progress", 0)
        self._device = device
        self.owner_pid = os.getpid()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        # Reentrant: the garbage collector may close a group while its thread reports a failure.
        self._lock = threading.RLock()
        self._failed = threading.Event()
        self._closing = self._ended = False
        self._start_error: OSError | None = None
        self._started = threading.Event()
        self._wake, self._woken = socket.socketpair()
        # A worker is killed when the thread that started it ends (PR_SET_PDEATHSIG), so that thread must be ours.
        self._thread = threading.Thread(target=self._start_and_watch, name="fastvideo-workers", daemon=True)
        self._thread.start()
        try:
            self._started.wait()
            if self._start_error is not None:
                raise self._start_error
        except BaseException:
            self.shutdown()
            raise

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank."""
        return {rank: process.pid for rank, process in self._processes.items()}

    def check(self, waiting_since: float) -> None:
        """Raise if waiting on is pointless: a rank has failed, or none has answered for ``hang_timeout`` seconds.

        Raises:
            WorkerError: naming the rank.
        """
        if self.failure is None and time.monotonic() - waiting_since > self.hang_timeout:
            self._fail_hung()
        if self.failure is not None:
            raise self.failure.error()

    def wait_for_failure(self) -> Failure | None:
        """The failure behind a broken connection, as soon as it is known; None where every worker turns out to live."""
        self._failed.wait(_GRACE_SECONDS + _EXIT_SECONDS)
        return self.failure

    def fail(self, rank: int, message: str) -> Failure:
        """Declare the group dead and kill every worker. The first failure is the one that stays."""
        with self._lock:
            if self.failure is None:
                self.failure = Failure(rank, message)
                self._kill()
                if self.on_failure is not None:
                    self.on_failure()
                self._failed.set()
            return self.failure

    def shutdown(self) -> None:
        """End every worker, in order where possible, and remove the directory. Idempotent; leaves no zombie.

        Does nothing in a process that was forked from the caller: the workers are not its own.
        """
        if os.getpid() != self.owner_pid:
            return
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self.failure is None:
            self._end_in_order()
        self._kill()
        self._ended = True
        self._wake.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for channel in self.channels.values():
            channel.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_in_order(self) -> None:
        for channel in self.channels.values():
            with contextlib.suppress(ChannelClosedError, ir.errors.WorkerError):  # it is gone already
                channel.send({"op": "exit"})
        if not self._all_end():
            for process in self._processes.values():
                process.terminate()
            self._all_end()

    def _all_end(self) -> bool:
        deadline = time.monotonic() + _EXIT_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return False
        return True

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _start_and_watch(self) -> None:
        try:
            for rank in range(1, self.num_ranks):
                self._processes[rank], self.channels[rank] = launch_worker(
                    rank, self.num_ranks, self._device, self.directory, self.check
                )
        except OSError as error:
            self._start_error = error
        finally:
            self._started.set()
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        ranks = {channel.fileno(): rank for rank, channel in self.channels.items()}
        for descriptor in ranks:
            poller.register(descriptor, 0)  # hang-ups are reported whatever is asked for
        while not self._ended:
            for descriptor, _ in poller.poll():
                if descriptor in ranks:
                    poller.unregister(descriptor)
                    if not self._closing and self.failure is None:
                        self._report_death(ranks[descriptor])
        self._woken.close()

    def _report_death(self, first: int) -> None:
        """Find out which rank failed by itself; the others that end now have only lost their connection to it."""
        deadline = time.monotonic() + _GRACE_SECONDS
        to_blame: int | None = None
        while to_blame is None and time.monotonic() < deadline:
            ended = {rank: process for rank, process in self._processes.items() if process.poll() is not None}
            reports = {rank: read_report(self.directory, rank) for rank in ended}
            to_blame = next((rank for rank, report in reports.items() if not (report and report.lost_peer)), None)
            time.sleep(0.005)
        rank = first if to_blame is None else to_blame
        self.fail(rank, describe_death(self.directory, rank, self._processes[rank].poll()))

    def _fail_hung(self) -> None:
        rank = self.progress.furthest_behind()
        self._processes[rank].send_signal(signal.SIGUSR1)  # it writes its Python stack to its log
        time.sleep(_STACK_SECONDS)
        message = f"did not answer for {self.hang_timeout:g} s"
        tail = log_tail(self.directory, rank)
        self.fail(rank, f"{message}\n--- last output of rank {rank} ---\n{tail}" if tail else message)
