"""Life of a worker group that nothing goes wrong in."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import fastvideo_ir as ir
from fastvideo.runtime.executors import WorkerGroup

from .programs import CPU, linear, program, wait_until_gone


def test_close_is_idempotent_and_leaves_nothing() -> None:
    group = WorkerGroup(2, CPU)
    executor = group.load(linear(2), {"w": torch.randn(7, 5)})
    pids, folder = group.pids, group._session.processes.directory
    assert folder.stat().st_mode & 0o777 == 0o700
    group.close()
    assert wait_until_gone(pids.values(), 0) == []
    assert not folder.exists()
    group.close()
    executor.close()
    executor.close()
    assert not group.alive
    for action in (group.restart, lambda: group.load(linear(2), {})):
        with pytest.raises(ir.errors.FastVideoError, match="closed"):
            action()


def test_close_before_the_workers_are_up() -> None:
    group = WorkerGroup(2, CPU)
    pids = group.pids
    group.close()
    assert wait_until_gone(pids.values(), 0) == []


def test_a_dropped_group_ends_its_workers() -> None:
    group = WorkerGroup(2, CPU)
    pids = group.pids
    del group
    gc.collect()
    assert wait_until_gone(pids.values(), 10) == []


def test_two_groups_and_a_default_process_group(pair: WorkerGroup, trio: WorkerGroup, tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        default = dist.group.WORLD
        x, w = torch.randn(10, 5), torch.randn(7, 5)
        with pair.load(linear(2), {"w": w}) as two, trio.load(linear(3), {"w": w}) as three:
            for _ in range(3):
                for executor in (two, three):
                    torch.testing.assert_close(executor.run([x])[0], x @ w.T)
        assert dist.group.WORLD is default
        assert dist.get_world_size() == 1
        dist.barrier()
    finally:
        dist.destroy_process_group()
    assert pair.alive


def test_no_default_process_group_is_made(pair: WorkerGroup) -> None:
    assert pair.alive
    assert not dist.is_initialized()


def test_the_thread_that_made_a_group_may_end() -> None:
    made: list[WorkerGroup] = []
    maker = threading.Thread(target=lambda: made.append(WorkerGroup(2, CPU)))
    maker.start()
    maker.join()
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    torch.testing.assert_close(made[0].load(linear(2), {"w": w}).run([x])[0], x @ w.T)
    made[0].close()


def test_threads_take_turns(pair: WorkerGroup) -> None:
    w = torch.randn(7, 5)
    inputs = [torch.randn(10, 5) for _ in range(4)]
    results: dict[int, torch.Tensor] = {}
    with pair.load(linear(2), {"w": w}) as executor:

        def call(index: int) -> None:
            for _ in range(10):
                results[index] = executor.run([inputs[index]])[0]

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, x in enumerate(inputs):
        torch.testing.assert_close(results[index], x @ w.T)


def test_wrong_inputs_and_params_leave_the_group_whole(pair: WorkerGroup) -> None:
    w, x = torch.randn(7, 5), torch.randn(10, 5)
    made = linear(2)
    wrong = ir.errors.InvalidArgumentError
    with pytest.raises(wrong, match="reads the param 'w', which was not given"):
        pair.load(made, {})
    with pytest.raises(wrong, match=r"param 'w' is f32\[5, 7\], the program expects f32\[7, 5\]"):
        pair.load(made, {"w": w.T})
    with pytest.raises(wrong, match="'w' is on the meta device"):
        pair.load(made, {"w": w.to("meta")})
    with pytest.raises(wrong, match=r"mesh\(sp=3\) cannot run on a group of 2 ranks"):
        pair.load(linear(3), {"w": w})
    with pair.load(made, {"w": w}) as executor:
        with pytest.raises(wrong, match="takes 1 tensors, got 2"):
            executor.run([x, x])
        with pytest.raises(wrong, match=r"input 'x' is f64\[10, 5\], the program was made for f32\[10, 5\]"):
            executor.run([x.double()])
        with pytest.raises(wrong, match="'w' is another tensor"):
            pair.load(made, {"w": w.clone()})
        torch.testing.assert_close(executor.run([x])[0], x @ w.T)


def test_the_callers_autocast_and_settings_reach_no_rank_alone(pair: WorkerGroup) -> None:
    w, x = torch.randn(7, 5), torch.randn(10, 5, requires_grad=True)
    with pair.load(linear(2), {"w": w}) as executor, torch.autocast("cpu", dtype=torch.bfloat16):
        (out, _) = executor.run([x])
    assert out.dtype == torch.float32
    assert not out.requires_grad
    torch.testing.assert_close(out, (x @ w.T).detach())


def test_numeric_settings_reach_the_workers(pair: WorkerGroup) -> None:
    made = program(
        2,
        """
        %x : f64[4] = input
        %mine : f64[4@sp] = fv.shard(%x, "sp")
        %sums : f64[4@sp] = aten.mul.Tensor(%mine, %mine)
        %gathered : (f64[4]) = fv.all_gather([%sums], "sp")
        %out : f64[4] = getitem(%gathered, 0)
        return (%out)""",
    )
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.arange(4.0)
        with pair.load(made, {}) as executor:
            assert torch.equal(executor.run([x])[0], x * x)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_is_refused(pair: WorkerGroup) -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    with pair.load(linear(2), {"w": w}) as executor:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            answer = "no error"
            try:
                assert not pair.alive
                executor.run([x])
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            pair.close()
            os.write(writer, answer.encode())
            os._exit(0)
        os.waitpid(child, 0)
        text = os.read(reader, 10000).decode()
        assert text.startswith(f"FastVideoError: these ranks belong to process {os.getpid()}; its fork {child} cannot")
        torch.testing.assert_close(executor.run([x])[0], x @ w.T)
