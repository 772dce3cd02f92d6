"""Worker groups on GPUs: the same contract as on the CPU, over NCCL."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.runtime.executors import SimulatedExecutor, WorkerGroup

from . import fault_ops  # noqa: F401  (registers the ops for rank 0)
from .programs import FAULT_OPS, faulty, linear, program, wait_until_gone

pytestmark = pytest.mark.gpu(2)

GPU = torch.device("cuda", 0)


@pytest.fixture
def group() -> Iterator[WorkerGroup]:
    with_two = WorkerGroup(2, GPU, plugins=[FAULT_OPS])
    yield with_two
    with_two.close()


@pytest.mark.parametrize("weights_on", ["cpu", "cuda"])
def test_sharded_linear(group: WorkerGroup, weights_on: str) -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5, device=weights_on)
    with group.load(linear(2), {"w": w}) as executor, SimulatedExecutor(linear(2), {"w": w}, GPU) as simulated:
        for _ in range(3):
            out, constant = executor.run([x])
            assert (out.device, constant) == (GPU, 3)
            torch.testing.assert_close(out, simulated.run([x])[0])
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("dtype", ["bf16", "i64", "bool", "f8e4m3", "c64"])
def test_exchange_moves_any_dtype(group: WorkerGroup, dtype: str) -> None:
    made = program(
        2,
        f"""
        %x : {dtype}[7, 3] = input
        %rows : {dtype}[7@sp, 3] = fv.shard(%x, "sp")
        %exchanged : ({dtype}[7, 3@sp]) = fv.all_to_all([%rows], "sp")
        %columns : {dtype}[7, 3@sp] = getitem(%exchanged, 0)
        %gathered : ({dtype}[7, 3]) = fv.all_gather([%columns], "sp")
        %out : {dtype}[7, 3] = getitem(%gathered, 0)
        return (%out)""",
    )
    x = (torch.randn(7, 3) * 3).to(ir.types.DTYPES_BY_NAME[dtype])
    with group.load(made, {}) as executor:
        assert torch.equal(executor.run([x])[0].cpu().view(torch.uint8), x.view(torch.uint8))


def test_each_rank_holds_only_its_piece(group: WorkerGroup) -> None:
    side = 16384  # 1 GiB in fp32
    body = f"""
        %w : f32[{side}@sp, {side}] = param "w" parameter
        %x : f32[{side}] = input
        %y : f32[{side}@sp] = aten.mv.default(%w, %x)
        %gathered : (f32[{side}]) = fv.all_gather([%y], "sp")
        %out : f32[{side}] = getitem(%gathered, 0)
        return (%out)"""
    group.load(linear(2), {"w": torch.randn(7, 5)}).close()
    free = torch.cuda.mem_get_info(1)[0]
    with group.load(program(2, body), {"w": torch.full((side, side), 2.0)}) as executor:
        taken = free - torch.cuda.mem_get_info(1)[0]
        assert taken < 0.6 * 2**30
        assert (executor.run([torch.ones(side)])[0] == 2.0 * side).all()


def test_killed_in_the_middle_of_a_call(group: WorkerGroup) -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    works, hangs = group.load(linear(2), {"w": w}), group.load(faulty(2, "sleep", 1), {})
    before = works.run([x])[0]
    pids = group.pids
    killed_at = []

    def kill() -> None:
        killed_at.append(time.monotonic())
        os.kill(pids[1], signal.SIGKILL)

    threading.Timer(1.0, kill).start()
    with pytest.raises(ir.errors.WorkerError, match="rank 1: was killed by SIGKILL"):
        hangs.run([x])
    assert time.monotonic() - killed_at[0] < 10
    assert wait_until_gone(pids.values(), 2) == []
    assert torch.ones(3, device=GPU).sum().item() == 3, "the caller's device must stay usable"
    group.restart()
    assert torch.equal(works.run([x])[0], before)


def test_raising_rank(group: WorkerGroup) -> None:
    executor = group.load(faulty(2, "raise", 1), {})
    start = time.monotonic()
    with pytest.raises(ir.errors.WorkerError, match=r"(?s)rank 1: raised ValueError: the flux capacitor.*fault_ops"):
        executor.run([torch.randn(10, 5)])
    assert time.monotonic() - start < 10


def test_hung_rank(group: WorkerGroup) -> None:
    executor = group.load(faulty(2, "sleep", 1), {})
    group._session.processes.hang_timeout = 2.0
    with pytest.raises(ir.errors.WorkerError, match=r"(?s)rank 1: did not answer for 2 s.*fault_ops"):
        executor.run([torch.randn(10, 5)])
    assert torch.ones(3, device=GPU).sum().item() == 3


def test_exception_in_the_caller(group: WorkerGroup) -> None:
    executor = group.load(faulty(2, "interrupt", 0), {})
    pids = group.pids
    with pytest.raises(KeyboardInterrupt):
        executor.run([torch.randn(10, 5)])
    assert wait_until_gone(pids.values(), 2) == []
