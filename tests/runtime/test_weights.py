"""Weights reach the other ranks without a second copy, and every rank holds only its pieces."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastvideo_ir as ir
from fastvideo.runtime.executors import WorkerGroup
from fastvideo.runtime.shared_memory import SharedTensors, map_tensors, share_tensors

from .programs import linear, program

BIG = 1024  # a square of that side is 4 MiB


def scaled_rows(ranks: int) -> ir.Program:
    """``x * w`` for a big w whose rows are sharded, and a big one that is replicated."""
    return program(
        ranks,
        f"""
        %w : f32[{BIG}@sp, {BIG}] = param "w" parameter
        %u : f32[{BIG}, {BIG}] = param "u" parameter
        %x : f32[{BIG}] = input
        %y : f32[{BIG}@sp] = aten.mv.default(%w, %x)
        %gathered : (f32[{BIG}]) = fv.all_gather([%y], "sp")
        %out : f32[{BIG}] = getitem(%gathered, 0)
        %z : f32[{BIG}] = aten.mv.default(%u, %out)
        return (%z)""",
    )


def received(shared: SharedTensors) -> dict[str, Tensor]:
    """What another process would see."""
    return map_tensors(shared.manifest, [os.dup(fd) for fd in shared.fds])


def mapped_inodes(pid: int) -> dict[int, str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {int(fields[4]): fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def private_bytes(pid: int) -> int:
    """Memory of a process that nobody else can share."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def run_and_measure(group: WorkerGroup, params: Mapping[str, Tensor]) -> int:
    """Run once for warmth, once with new programs; by how much the private memory of worker 1 grew."""
    x = torch.randn(BIG)
    expected = params["u"] @ (params["w"] @ x)
    with group.load(scaled_rows(group.num_ranks), params) as executor:
        before = private_bytes(group.pids[1])
        torch.testing.assert_close(executor.run([x])[0], expected, rtol=1e-4, atol=1e-3)
        with group.load(scaled_rows(group.num_ranks), params) as second:
            second.run([x])
            return private_bytes(group.pids[1]) - before


def test_memory_is_shared_with_the_caller(pair: WorkerGroup) -> None:
    params = {"w": torch.randn(BIG, BIG), "u": torch.randn(BIG, BIG)}
    view = params["u"][3:]
    expected = view.clone()
    assert run_and_measure(pair, params) < 2**20
    assert torch.equal(view, expected)
    assert view.untyped_storage().data_ptr() == params["u"].untyped_storage().data_ptr()
    fd = params["u"].untyped_storage()._share_fd_cpu_()[0]
    with pair.load(scaled_rows(2), params):
        assert os.fstat(fd).st_ino in mapped_inodes(pair.pids[1])
    assert os.fstat(fd).st_ino not in mapped_inodes(pair.pids[1])


def test_safetensors_are_mapped_from_their_file(pair: WorkerGroup, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.randn(BIG, BIG), "u": torch.randn(BIG, BIG)}, path)
    params = load_file(path)
    assert run_and_measure(pair, params) < 2**20
    assert not params["u"].is_shared()
    with pair.load(scaled_rows(2), params):
        assert mapped_inodes(pair.pids[1])[path.stat().st_ino] == str(path)


def test_written_mappings_are_not_read_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(BIG, BIG)}, path)
    params = load_file(path)
    params["w"][5, 7] = 1.0
    shared = share_tensors(params)
    assert shared.manifest["w"]["file"] == "fd:0"
    assert torch.equal(received(shared)["w"], params["w"])


def test_replaced_and_deleted_files_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(BIG, BIG)}, path)
    params = load_file(path)
    other = tmp_path / "other"
    save_file({"w": torch.ones(BIG, BIG)}, other)
    other.rename(path)
    shared = share_tensors(params)
    assert shared.manifest["w"]["file"] == "fd:0"
    assert torch.equal(received(shared)["w"], torch.zeros(BIG, BIG))


def test_views_strides_ties_and_small_ones() -> None:
    base = torch.randn(300, 400)
    tensors = {
        "base": base,
        "transposed": base.t(),
        "part": base[10:20, ::3],
        "tied": base,
        "small": torch.randn(3, 5).t(),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "half": torch.randn(7, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    shared = share_tensors(tensors)
    assert len(shared.fds) == 2
    copies = received(shared)
    for name, tensor in tensors.items():
        assert torch.equal(copies[name], tensor), name
        assert copies[name].stride() == tensor.stride(), name
    base[0, 0] = 42
    assert copies["tied"][0, 0] == 42
    copies["tied"][0, 0] = 7
    assert base[0, 0] == 42, "a receiver must not write to the caller's weights"
    shared.close()


def test_memory_that_torch_mapped_privately(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(BIG, BIG)}, path)
    params = torch.load(path, mmap=True, weights_only=True)
    assert share_tensors(params).manifest["w"]["file"] == str(path)
    file = tmp_path / "raw"
    file.write_bytes(bytes(4 * BIG * BIG))
    written = torch.from_file(str(file), shared=False, size=BIG * BIG)
    written[1] = 5.0
    assert torch.equal(received(share_tensors({"w": written}))["w"], written)


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": torch.randn(BIG, BIG)}
    real = os.statvfs("/dev/shm")
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:3], 3, 3, *real[5:])))
    with pytest.raises(ir.errors.FastVideoError, match=r"takes 0.00 GiB of shared memory, .* \(enlarge it"):
        share_tensors(weights)
    assert not weights["w"].is_shared()


def test_too_few_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (100, 4096))
    with pytest.raises(
        ir.errors.FastVideoError, match=r"takes 1 file descriptors; .* \(raise the limit with `ulimit -n"
    ):
        share_tensors({"w": torch.randn(BIG, BIG)})


def test_new_weights(pair: WorkerGroup) -> None:
    x, w, other = torch.randn(10, 5), torch.randn(7, 5), torch.randn(7, 5)
    with pair.load(linear(2), {"w": w}) as first, pair.load(linear(2), {"w": w}) as second:
        pair.update_params({"w": other})
        for executor in (first, second):
            torch.testing.assert_close(executor.run([x])[0], x @ other.T)
    with pair.load(linear(2), {"w": w}) as third:
        torch.testing.assert_close(third.run([x])[0], x @ w.T)
