"""Ranks that die, raise or hang: the caller gets an error that names the rank, and nothing is left running."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.runtime.executors import MpExecutor, WorkerGroup
from fastvideo.runtime.process_groups import ProcessGroups

from . import fault_ops  # noqa: F401  (registers the ops for rank 0)
from .programs import CPU, FAULT_OPS, faulty, linear, wait_until, wait_until_gone


@pytest.fixture
def group() -> Iterator[WorkerGroup]:
    with_two = WorkerGroup(2, CPU, plugins=[FAULT_OPS])
    yield with_two
    with_two.close()


def directory(group: WorkerGroup) -> Path:
    return group._session.processes.directory


def assert_nothing_left(pids: dict[int, int], folder: Path) -> None:
    assert wait_until_gone(pids.values(), 2) == []
    assert not folder.exists()


def test_killed_in_the_middle_of_a_call() -> None:
    group = WorkerGroup(3, CPU, plugins=[FAULT_OPS])
    executor = group.load(faulty(3, "sleep", 1), {})
    pids, folder = group.pids, directory(group)
    killed_at = []

    def kill() -> None:
        killed_at.append(time.monotonic())
        os.kill(pids[2], signal.SIGKILL)

    threading.Timer(0.5, kill).start()
    with pytest.raises(ir.errors.WorkerError, match="rank 2: was killed by SIGKILL") as caught:
        executor.run([torch.randn(10, 5)])
    assert time.monotonic() - killed_at[0] < 5
    assert caught.value.rank == 2
    assert_nothing_left(pids, folder)
    assert not group.alive
    assert not executor.alive
    with pytest.raises(ir.errors.WorkerError, match="stopped since this one failed: was killed by SIGKILL"):
        executor.run([torch.randn(10, 5)])
    group.close()


def test_the_next_call_works_after_a_restart(group: WorkerGroup) -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    works, fails = group.load(linear(2), {"w": w}), group.load(faulty(2, "raise", 1), {})
    before = works.run([x])[0]
    pids, folder = group.pids, directory(group)
    start = time.monotonic()
    with pytest.raises(ir.errors.WorkerError) as caught:
        fails.run([x])
    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert text.startswith("rank 1: raised ValueError: the flux capacitor is empty\n--- traceback of rank 1 ---\n")
    assert 'raise ValueError("the flux capacitor is empty")' in text
    assert_nothing_left(pids, folder)
    group.restart()
    assert works.alive
    assert torch.equal(works.run([x])[0], before)
    assert set(group.pids.values()).isdisjoint(pids.values())


def test_exit_in_the_middle_shows_the_last_words(group: WorkerGroup) -> None:
    executor = group.load(faulty(2, "exit", 1), {})
    with pytest.raises(ir.errors.WorkerError, match=r"(?s)rank 1: ended with exit code 7.*last words"):
        executor.run([torch.randn(10, 5)])


@pytest.mark.parametrize(("kind", "shown"), [("sleep", "fault_ops.py"), ("stop", "did not answer for 1 s")])
def test_hung_rank(kind: str, shown: str) -> None:
    group = WorkerGroup(2, CPU, hang_timeout=1, plugins=[FAULT_OPS])
    executor = _patiently_loaded(group, faulty(2, kind, 1))
    pids, folder = group.pids, directory(group)
    start = time.monotonic()
    with pytest.raises(ir.errors.WorkerError, match="rank 1: did not answer for 1 s") as caught:
        executor.run([torch.randn(10, 5)])
    assert time.monotonic() - start < 5
    assert shown in str(caught.value)
    assert_nothing_left(pids, folder)
    group.close()


def _patiently_loaded(group: WorkerGroup, program: ir.Program) -> MpExecutor:
    """A short hang timeout must not cut off the start, which takes seconds."""
    processes = group._session.processes
    processes.hang_timeout, short = 60.0, processes.hang_timeout
    executor = group.load(program, {})
    processes.hang_timeout = short
    return executor


def test_killed_between_calls(group: WorkerGroup) -> None:
    executor = group.load(linear(2), {"w": torch.randn(7, 5)})
    pids, folder = group.pids, directory(group)
    os.kill(pids[1], signal.SIGKILL)
    assert wait_until(lambda: not group.alive, 2)
    with pytest.raises(ir.errors.WorkerError, match=r"rank 1: .*killed by SIGKILL"):
        executor.run([torch.randn(10, 5)])
    executor.close()
    group.close()
    assert_nothing_left(pids, folder)


@pytest.mark.parametrize(
    ("kind", "error", "why"),
    [("raise", ValueError, "ValueError: the flux"), ("interrupt", KeyboardInterrupt, "KeyboardInterrupt")],
)
def test_exception_in_the_caller(group: WorkerGroup, kind: str, error: type[BaseException], why: str) -> None:
    executor = group.load(faulty(2, kind, 0), {})
    pids, folder = group.pids, directory(group)
    with pytest.raises(error):
        executor.run([torch.randn(10, 5)])
    assert_nothing_left(pids, folder)
    with pytest.raises(ir.errors.WorkerError, match=f"rank 0: .*raised {why}"):
        executor.run([torch.randn(10, 5)])


def test_worker_that_cannot_start() -> None:
    group = WorkerGroup(2, CPU, plugins=["a_module_that_is_not_there"])
    pids, folder = group.pids, directory(group)
    with pytest.raises(
        ir.errors.WorkerError, match=r"rank 1: raised ModuleNotFoundError: .*a_module_that_is_not_there"
    ):
        group.load(linear(2), {"w": torch.randn(7, 5)})
    assert_nothing_left(pids, folder)
    group.close()


class EndsBehindTheSlice:
    """Work of gloo that is not done when a wait for it ends, and is when it is asked."""

    def __init__(self, error: str | None) -> None:
        self._error, self._waits = error, 0

    def wait(self, *_: object) -> None:
        self._waits += 1
        if self._waits == 1 or self._error:
            raise RuntimeError("Operation timed out!" if self._waits == 1 else self._error)

    def is_completed(self) -> bool:
        return True


def test_a_transfer_that_ends_just_behind_a_slice_of_waiting_is_no_failure() -> None:
    ProcessGroups._wait_in_slices(EndsBehindTheSlice(None), lambda _: None)
    with pytest.raises(RuntimeError, match="Connection reset"):
        ProcessGroups._wait_in_slices(EndsBehindTheSlice("Connection reset"), lambda _: None)
