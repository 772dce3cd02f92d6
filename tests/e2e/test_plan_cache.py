"""Captures and plans on disk: what another process has found is used where it holds, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo import compiler
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo.plan_cache import PlanCache
from fastvideo.runtime.disk_cache import DiskCache, DiskCacheWarning

from . import toy

SOURCE = """
import torch
from torch import nn

FACTOR = 2.0
STEPS = {"small": 3}

def helper(x):
    return x * FACTOR + STEPS["small"]

def outer(shift):
    def inner(x):
        return x + shift
    return inner

class Net(nn.Module):
    WIDTH = 6

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.linear.weight.data.copy_(torch.arange(36.0).reshape(6, 6) / 36)
        self.gain = 1.5
        self.table = torch.arange(6.0)
        self.options = [{"bias": 0.25}]
        self.shifted = outer(0.5)
        self.method = "tanh"

    def twice(self, x):
        return x + x

    def forward(self, x, mask):
        y = getattr(torch, self.method)(self.linear(self.twice(helper(x))))
        y = self.shifted(y) * self.gain + self.table + self.options[0]["bias"] + Net.WIDTH
        return {"out": y[:, : int(mask.sum())], "all": y}
"""


def make(source: str = SOURCE) -> nn.Module:
    """The model as a process that has imported this source has it."""
    module = types.ModuleType("made_for_this_test")
    exec(compile(source, "made_for_this_test.py", "exec"), vars(module))
    model: nn.Module = module.Net().eval()
    return model


def call_inputs(ones: int = 3) -> dict[str, Tensor]:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    return {"x": x, "mask": (torch.arange(6) < ones).long()}


class Captures:
    """Counts what is captured, and plans that were not found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.plans = 0
        capture, keep_plan = compiler.capture, PlanCache.keep_plan

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return capture(*args, **kwargs)

        def counted_plans(*args: Any) -> None:
            self.plans += 1
            keep_plan(*args)

        monkeypatch.setattr(compiler, "capture", counted)
        monkeypatch.setattr(PlanCache, "keep_plan", counted_plans)

    def of(self, run: Callable[[], object]) -> int:
        before = self.count
        run()
        return self.count - before


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Captures:
    monkeypatch.setenv("FASTVIDEO_CACHE", "1")
    monkeypatch.setenv("FASTVIDEO_CACHE_DIR", str(tmp_path / "cache"))
    return Captures(monkeypatch)


def check(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> str:
    """One call of a newly compiled model is the model's own, bit for bit on one rank; returns what explain() says."""
    with torch.no_grad(), fastvideo.compile(model, device="cpu", **options) as compiled:
        found, expected = compiled(**inputs), model(**inputs)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 if options else 0)
        return compiled.explain()


def test_a_second_process_neither_captures_nor_plans(captures: Captures) -> None:
    assert "made anew, kept in" in check(make(), call_inputs())
    assert (captures.count, captures.plans) == (1, 1)
    said = check(make(), call_inputs())
    assert (captures.count, captures.plans) == (1, 1)
    assert "capture read from" in said and "plan read from disk" in said and "bit-equal" in said


def test_weights_are_read_at_every_hit(captures: Captures) -> None:
    check(make(), call_inputs())
    other = make()
    with torch.no_grad():
        other.linear.weight.mul_(-3)  # type: ignore[union-attr,operator]
    assert captures.of(lambda: check(other, call_inputs())) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + x", "x + 3 * x"),
        ("FACTOR = 2.0", "FACTOR = 2.5"),
        ('{"small": 3}', '{"small": 4}'),
        ("outer(0.5)", "outer(0.75)"),
        ("WIDTH = 6", "WIDTH = 7"),
        ("gain = 1.5", "gain = 1.25"),
        ("torch.arange(6.0)\n", "torch.arange(6.0) * 2\n"),
        ('{"bias": 0.25}', '{"bias": 0.5}'),
        ('"tanh"', '"sin"'),
        ("+ FACTOR", "+ FACTOR"),
    ],
    ids=["method", "global", "dict", "closure", "class", "attribute", "tensor", "nested", "name", "nothing"],
)
def test_what_the_model_computes_with_has_changed(captures: Captures, old: str, new: str) -> None:
    check(make(), call_inputs())
    changed = SOURCE.replace(old, new)
    assert captures.of(lambda: check(make(changed), call_inputs())) == (changed != SOURCE)
    assert captures.of(lambda: check(make(), call_inputs())) == 0


def test_what_was_replaced_in_the_living_model_counts(captures: Captures) -> None:
    check(make(), call_inputs())
    patched, hooked, halved = make(), make(), make()
    patched.twice = types.MethodType(lambda self, x: 5 * x, patched)  # type: ignore[assignment]
    hooked.linear.register_forward_hook(lambda module, inputs, output: output - 1)  # type: ignore[union-attr,operator]
    halved.linear = nn.Linear(6, 6, bias=False).eval()
    for model in (patched, hooked, halved):
        assert captures.of(lambda model=model: check(model, call_inputs())) == 1  # type: ignore[misc]


def test_a_guard_is_evaluated_on_the_values_at_hand(captures: Captures) -> None:
    for ones, expected in [(3, 1), (4, 1), (3, 0), (4, 0), (5, 1)]:
        assert captures.of(lambda ones=ones: check(make(), call_inputs(ones))) == expected  # type: ignore[misc]


def test_settings_and_other_signatures_are_kept_apart(captures: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    check(make(), call_inputs())
    torch.use_deterministic_algorithms(True)
    try:
        assert captures.of(lambda: check(make(), call_inputs())) == 1
    finally:
        torch.use_deterministic_algorithms(False)
    assert captures.of(lambda: check(make(), call_inputs())) == 0
    monkeypatch.setenv("FASTVIDEO_CACHE", "0")
    assert captures.of(lambda: check(make(), call_inputs())) == 1


@pytest.mark.parametrize("parallel", [fastvideo.Parallel(sp=2), fastvideo.Parallel(tp=2)], ids=str)
def test_plans_of_several_ranks(captures: Captures, parallel: fastvideo.Parallel) -> None:
    def run(seed: int, **options: Any) -> str:
        model = toy.build(1)
        with torch.no_grad(), fastvideo.compile(model, device="cpu", executor="simulated", **options) as compiled:
            found, expected = compiled(**toy.inputs(seed)), model(**toy.inputs(seed))
            assert type(found) is toy.ToyOutput
            torch.testing.assert_close(found.sample, expected.sample, rtol=0, atol=1e-5)
            return str(compiled.report.programs[0].mesh)

    mesh = run(0, parallel=parallel)
    assert run(1, parallel=parallel) == mesh
    assert (captures.count, captures.plans) == (1, 1)
    assert run(1, num_gpus=3) != mesh
    assert (captures.count, captures.plans) == (1, 2)  # another division of the same capture


def test_passes_of_users_run_every_time(captures: Captures) -> None:
    seen: list[int] = []

    class Look(fastvideo.Pass):
        name = "look"

        def run(self, program: Any) -> None:
            seen.append(len(list(program.nodes)))

    for _ in range(2):
        check(make(), call_inputs(), passes=[*default_pipeline(Target()), Look()])
    assert len(seen) == 2 and captures.count == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_entry_is_made_anew(captures: Captures, tmp_path: Path, damage: str) -> None:
    check(make(), call_inputs())
    for path in (tmp_path / "cache").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[: len(data) // 3], "flipped": data, "other": b"no such file"}[damage])
    with pytest.warns(DiskCacheWarning, match="cannot be used .* made anew") as told:
        check(make(), call_inputs())
    assert len(told) == 2 and all("\n" not in str(each.message) for each in told)
    assert (captures.count, captures.plans) == (2, 2)
    assert captures.of(lambda: check(make(), call_inputs())) == 0


def test_a_folder_that_cannot_be_written_is_warned_of(captures: Captures, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(DiskCacheWarning, match="cannot be written .*; nothing is kept for later processes"):
        check(make(), call_inputs())


def test_what_cannot_be_kept_is_said(captures: Captures) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [torch.eye(6).to_sparse()]

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": x * 2}

    for _ in range(2):
        assert "capture not kept: tables[0] is a tensor that is too large, or not dense" in check(
            Holder().eval(), {"x": torch.ones(2, 6)}
        )
    assert captures.count == 2


def test_the_entries_used_last_stay(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=70_000)
    for number in range(4):
        cache.store(f"entry-{number}", {"number": number}, {"x": torch.full((5000,), float(number))})
        os.utime(tmp_path / f"entry-{number}.fvcache", (number, number))
        if number == 2:
            cache.used("entry-0")
    assert sorted(entry.data["number"] for entry in cache.load("entry-")) == [0, 2, 3]
    assert [path.suffix for path in tmp_path.iterdir()] == [".fvcache"] * 3


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "turned": torch.randn(3, 4).t(),
        "number": torch.tensor(7),
        "complex": torch.randn(2, 3, dtype=torch.complex128).conj(),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "bf16": torch.randn(5).bfloat16()[1:],
        "empty": torch.empty(0, 3, dtype=torch.bool),
    }
    DiskCache(tmp_path).store("all", {"nan": None}, tensors)
    (entry,) = DiskCache(tmp_path).load("all")
    for name, tensor in tensors.items():
        assert torch.equal(entry.tensors[name], tensor) and entry.tensors[name].dtype == tensor.dtype
    assert entry.tensors["turned"].stride() == (1, 4)


SCRIPT = """
import sys, fastvideo, torch
from tests.e2e import toy
with torch.no_grad(), fastvideo.compile(toy.build(1), device="cpu") as compiled:
    torch.save(compiled(**toy.inputs()).sample, sys.argv[1])
"""


def test_two_processes_at_once(captures: Captures, tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stderr=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        assert b"Warning" not in errors
    with torch.no_grad(), fastvideo.compile(toy.build(1), device="cpu") as compiled:
        here = compiled(**toy.inputs()).sample
    assert captures.count == 0
    assert all(torch.equal(torch.load(tmp_path / name), here) for name in ("one", "two"))
