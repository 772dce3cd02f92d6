"""Process groups that belong to one group of workers and to nobody else.

The c10d backends are made directly, each with its own part of a file store. Torch's default process group and its
registry of groups are never touched, so a caller may have its own, and any number of worker groups live side by side.
Gloo is bound to the loopback device, whatever the host name resolves to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d

from fastvideo_ir.pending import Pending

from .channel import SLICE_SECONDS, Check
from .launch import NCCL_SETTINGS
from .progress import Progress

_CONNECT_TIMEOUT = timedelta(seconds=60)
# Whether a rank hangs is judged by the caller alone, which ends the others then.
_NO_TIMEOUT = timedelta(days=30)
_SLICE = timedelta(seconds=SLICE_SECONDS)


class PeerLostError(Exception):
    """A collective failed because another rank is gone."""


class ProcessGroups:
    """This rank's process groups, by the ranks in them, made when they are first asked for.

    Every member of a group must ask for its groups in the same order.

    Args:
        directory: private to the worker group; all ranks use one file in it to find each other.
        rank: this rank.
        num_ranks: all ranks.
        device: what this rank computes on; NCCL serves CUDA, gloo the CPU.
        progress: counted up around every collective.
        check: called while a collective is awaited on the CPU; None waits for as long as it takes.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        num_ranks: int,
        device: torch.device,
        progress: Progress,
        check: Check | None = None,
    ) -> None:
        self.rank = rank
        self.device = device
        self.everybody = tuple(range(num_ranks))
        self._store = c10d.FileStore(str(directory / "store"), num_ranks)
        self._store.set_timeout(_CONNECT_TIMEOUT)
        self._progress = progress
        self._check = check
        self._backends: dict[tuple[int, ...], Any] = {}

    def connect(self, ranks: tuple[int, ...]) -> None:
        """Make the group of ``ranks``, to which this rank belongs. A group of one needs no connection.

        Raises:
            PeerLostError: the others did not come.
        """
        if len(ranks) > 1 and ranks not in self._backends:
            store = c10d.PrefixStore(",".join(map(str, ranks)), self._store)
            make = _make_nccl if self.device.type == "cuda" else _make_gloo
            with _losing_peers():
                self._backends[ranks] = make(store, ranks.index(self.rank), len(ranks), self.device)

    def broadcast(self, value: Tensor) -> None:
        """Fill ``value`` on every rank with that of rank 0. Contiguous; any dtype."""
        options = c10d.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, _NO_TIMEOUT
        self._start(self.everybody, lambda backend: backend.broadcast([as_bytes(value)], options))()

    def all_to_all(
        self, ranks: tuple[int, ...], value: Tensor, send_numels: list[int], receive_numels: list[int]
    ) -> Pending:
        """Send consecutive pieces of a flat ``value`` to the ranks; the pieces received, one behind the other."""
        options = c10d.AllToAllOptions()
        options.timeout = _NO_TIMEOUT
        size = value.element_size()
        result = value.new_empty(sum(receive_numels))
        receive, send = [n * size for n in receive_numels], [n * size for n in send_numels]
        finish = self._start(
            ranks, lambda b: b.alltoall_base(as_bytes(result), as_bytes(value), receive, send, options)
        )
        return Pending(result, finish, value)

    def all_gather(self, ranks: tuple[int, ...], value: Tensor) -> Pending:
        """Flat values of equal size of all ranks, one behind the other."""
        options = c10d.AllgatherOptions()
        options.timeout = _NO_TIMEOUT
        result = value.new_empty(value.numel() * len(ranks))
        finish = self._start(ranks, lambda b: b._allgather_base(as_bytes(result), as_bytes(value), options))
        return Pending(result, finish, value)

    def all_reduce_(self, ranks: tuple[int, ...], value: Tensor) -> Pending:
        """Replace ``value`` by its sum over the ranks."""
        options = c10d.AllreduceOptions()
        options.reduceOp, options.timeout = c10d.ReduceOp(c10d.ReduceOp.SUM), _NO_TIMEOUT
        return Pending(value, self._start(ranks, lambda backend: backend.allreduce([value], options)), value)

    def abort(self) -> None:
        """Give up whatever runs on the device. From any thread; afterwards no group works."""
        if self.device.type == "cuda":
            for backend in list(self._backends.values()):
                backend.abort()

    def close(self) -> None:
        """Drop all connections."""
        self.abort()
        self._backends.clear()
        del self._store

    def _start(self, ranks: tuple[int, ...], start: Callable[[Any], Any]) -> Callable[[], None]:
        """Start a collective; what awaits its end."""
        if len(ranks) == 1:
            raise AssertionError("a group of one rank has nothing to exchange")
        self._progress.advance()
        with _losing_peers():
            work = start(self._backends[ranks])

        def finish() -> None:
            with _losing_peers():
                if self._check is None or self.device.type == "cuda":
                    work.wait()  # on CUDA the current stream waits, the host does not
                else:
                    self._wait_in_slices(work, self._check)
            self._progress.advance()

        return finish

    @staticmethod
    def _wait_in_slices(work: Any, check: Check) -> None:
        """Wait without shutting out signal handlers and news of dead ranks."""
        waiting_since = time.monotonic()
        while True:
            try:
                work.wait(_SLICE)
                return
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # raises the work's own error; it may also have ended just behind the slice
                    return
            check(waiting_since)


def as_bytes(value: Tensor) -> Tensor:
    """A contiguous tensor as flat bytes: data moves alike for every dtype, also those that a backend does not know."""
    return value.reshape(-1).view(torch.uint8)


@contextmanager
def _losing_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(str(error)) from error


def _make_gloo(store: c10d.Store, rank: int, size: int, device: torch.device) -> Any:
    options: Any = c10d.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = _CONNECT_TIMEOUT
    return c10d.ProcessGroupGloo(store, rank, size, options)


def _make_nccl(store: c10d.Store, rank: int, size: int, device: torch.device) -> Any:
    options: Any = c10d.ProcessGroupNCCL.Options()
    options._timeout = _NO_TIMEOUT
    with _environment(NCCL_SETTINGS):
        backend = c10d.ProcessGroupNCCL(store, rank, size, options)
    backend.eager_connect_single_device(device)
    return backend


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables for the moment in which a backend is made: it reads them then, and knows no other way."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
