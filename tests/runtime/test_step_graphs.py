"""When a call is replayed as a CUDA graph, and that a replay computes what the call would; CUDA itself only on GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo.backends import attention
from fastvideo.runtime import step_graphs
from fastvideo.runtime.step_graphs import Run, StepGraphs
from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.memory import Memory

from .programs import program

CPU = torch.device("cpu")
PLAIN = 0.004
"""Seconds of a call that is launched kernel by kernel."""


class Replays:
    """Stands in for CUDA: a replay computes with the memory that it was recorded with."""

    def __init__(self, wrong: float = 0.0, slow: float = 0.0, error: Exception | None = None) -> None:
        self.recorded = self.replayed = 0
        self._wrong, self._slow, self._error = wrong, slow, error

    def __call__(self, run: Run, inputs: Sequence[Tensor], kept: Mapping[str, Tensor], device: torch.device) -> Any:
        if self._error is not None:
            raise self._error
        self.recorded += 1
        return self

    def replay(self, inputs: Sequence[Tensor], kept: Mapping[str, Tensor]) -> list[Any]:
        self.replayed += 1
        time.sleep(self._slow)
        return [value * 2 + self._wrong for value in inputs] + [kept[slot] for slot in kept]


def doubling(extra: str = "") -> ir.Program:
    return program(1, f"%x : f32[4] = input\n%out : f32[4] = aten.mul.Scalar(%x, 2)\n{extra}\nreturn (%out)")


def runs(made: ir.Program, record: Replays, wish: bool | None = None, refusal: str = "") -> StepGraphs:
    def run(inputs: Sequence[Tensor], memory: Memory) -> list[Any]:
        time.sleep(PLAIN)
        return [value * 2 for value in inputs] + list((memory.invariant or {}).values())

    return StepGraphs(made, run, tuple, CPU, wish=wish, refusal=refusal, record=record)


@pytest.fixture(autouse=True)
def _short_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "LONG_OP", 1.0)


def call(graphs: StepGraphs, value: float, memory: Memory | None = None) -> list[float]:
    return [float(result[0]) for result in graphs([torch.full((4,), value)], memory or Memory())]


def test_the_second_call_is_recorded_and_later_ones_are_replayed_on_their_own_inputs() -> None:
    record = Replays()
    graphs = runs(doubling(), record)
    assert "measured at the second call" in graphs.verdict
    assert [call(graphs, value) for value in (1.0, 2.0, 3.0, 4.0)] == [[2.0], [4.0], [6.0], [8.0]]
    assert (record.recorded, record.replayed) == (1, 4), "two to measure, and one a call behind that"
    assert "as one CUDA graph, " in graphs.verdict and not graphs.verdict.startswith("kernel by kernel")
    graphs.forget()
    assert [call(graphs, 5.0), call(graphs, 6.0)] == [[10.0], [12.0]] and record.recorded == 2


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (Replays(slow=2 * PLAIN), "as one CUDA graph"),
        (Replays(wrong=0.5), "replayed as a CUDA graph it computes something else"),
        (Replays(wrong=float("nan")), "replayed as a CUDA graph it computes something else"),
        (
            Replays(error=RuntimeError("CUDA error: operation not permitted\nmore")),
            "CUDA error: operation not permitted",
        ),
        (Replays(error=torch.OutOfMemoryError("CUDA out of memory")), "CUDA out of memory"),
    ],
)
def test_a_graph_that_is_slow_wrong_or_refused_is_not_used(record: Replays, verdict: str) -> None:
    graphs = runs(doubling(), record)
    assert [call(graphs, value) for value in (1.0, 2.0, 3.0)] == [[2.0], [4.0], [6.0]]
    before = record.replayed
    assert call(graphs, 4.0) == [8.0] and record.replayed == before
    assert graphs.verdict.startswith("kernel by kernel: ") and verdict in graphs.verdict


def test_kernels_that_hide_their_launches_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "LONG_OP", PLAIN / 2)
    record = Replays()
    graphs = runs(doubling(), record)
    assert [call(graphs, value) for value in (1.0, 2.0, 3.0)] == [[2.0], [4.0], [6.0]]
    assert record.recorded == 0 and "longer than it takes to launch" in graphs.verdict
    wished = runs(doubling(), record, wish=True)
    assert [call(wished, value) for value in (1.0, 2.0)] == [[2.0], [4.0]] and record.recorded == 1


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("%noise : f32[4] = aten.randn_like.default(%x)", "draws random numbers"),
        ('%there : f32[4] = fv.recall(%x, "slot")', "each call decides what it computes"),
        ('%called : (f32[4]) = fv.eager_call([%x], "module")', "a module of it stays Python"),
        ("%away : f32[4] = fv.fetch(%x)", "weights are fetched from the host"),
    ],
)
def test_what_cannot_be_replayed_is_known_before_it_is_recorded(extra: str, reason: str) -> None:
    record = Replays()
    graphs = runs(doubling(extra), record)
    assert [call(graphs, value) for value in (1.0, 2.0, 3.0)] == [[2.0], [4.0], [6.0]]
    assert record.recorded == 0 and graphs.verdict.startswith("kernel by kernel: ") and reason in graphs.verdict
    with pytest.raises(InvalidArgumentError, match=f"cuda_graphs=True cannot be: .*{reason}"):
        runs(doubling(extra), record, wish=True)


def test_backends_are_replayed_only_where_they_say_that_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(
        1,
        """
        %q : f32[1, 2, 4, 8] = input
        %seen : f32[1, 2, 4, 8] = fv_attn.torch_sdpa(%q, %q, %q)
        return (%seen)""",
    )
    record = Replays()
    assert "measured at the second call" in runs(made, record).verdict
    monkeypatch.setattr(attention.TorchSdpa, "replayable", False)
    assert "TORCH_SDPA does not say that it is replayable" in runs(made, record).verdict


def test_calls_that_fill_what_is_kept_are_run_and_those_that_read_it_have_a_graph_of_their_own() -> None:
    record = Replays()
    graphs = runs(doubling(), record)

    def memory(*, reusing: bool) -> Memory:
        made = Memory()
        made.reusing, made.invariant = reusing, {"slot": torch.full((4,), 7.0)}
        return made

    for _ in range(3):
        call(graphs, 1.0, memory(reusing=False))
    assert record.recorded == 0
    for _ in range(2):
        call(graphs, 1.0, memory(reusing=True))
    assert record.recorded == 1
    assert call(graphs, 3.0, memory(reusing=True)) == [6.0, 7.0]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"cuda_graphs": True, "device": "cpu"}, "one rank on a GPU, not for the device cpu"),
        ({"cuda_graphs": True, "device": "cpu", "num_gpus": 2}, "one rank on a GPU, not for 2 ranks"),
        ({"cuda_graphs": "yes"}, "cuda_graphs='yes' is neither True, False nor None"),
    ],
)
def test_wishes_that_cannot_be_are_refused_at_once(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidArgumentError, match=error):
        fastvideo.compile(nn.Linear(4, 4).eval(), **settings)


class Deep(nn.Module):
    """Many short kernels, and attention to a context."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(24))
        self.keys = nn.Linear(64, 64)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k = self.keys(context).unflatten(-1, (1, 64)).transpose(1, 2)
        for layer in self.layers:
            q = torch.tanh(layer(x)).unflatten(-1, (1, 64)).transpose(1, 2)
            x = x + nn.functional.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2)
        return x


@pytest.mark.gpu
@pytest.mark.parametrize("invariant", [(), ("context",)])
def test_cuda_replays_what_the_model_computes(invariant: Sequence[str]) -> None:
    torch.manual_seed(0)
    model = Deep().eval().cuda().bfloat16()
    drawn: Callable[[int], Tensor] = lambda tokens: torch.randn(1, tokens, 64, device="cuda").bfloat16()  # noqa: E731
    prompts = drawn(16), drawn(16)
    with fastvideo.compile(model, invariant=invariant, cuda_graphs=True) as compiled, torch.no_grad():
        results = []
        for step in range(8):
            x = drawn(32)
            out = compiled(x, prompts[step % 2])
            results.append((out, model(x, prompts[step % 2])))
        for number, (out, wanted) in enumerate(results):  # none was written over by a later call
            assert float((out - wanted).float().norm() / wanted.float().norm()) < 2e-2, number
        assert "as one CUDA graph" in compiled.explain()
        model.layers[0].weight.data.mul_(3)
        compiled.update_weights()
        x = drawn(32)
        for _ in range(3):
            out = compiled(x, prompts[0])
            wanted = model(x, prompts[0])
            assert float((out - wanted).float().norm() / wanted.float().norm()) < 2e-2
        longer = drawn(48)
        for _ in range(3):
            assert compiled(longer, prompts[1]).shape == longer.shape
        torch.testing.assert_close(compiled(x, prompts[0]), out, rtol=0, atol=0)
