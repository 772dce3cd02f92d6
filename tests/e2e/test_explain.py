"""What a report says of a plan: its blocks, work, reasons, time and memory, against what a run shows."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.frontends.capture import capture
from fastvideo.passes.analysis import predict_eager_memory, predict_memory
from fastvideo.passes.analysis.live_storages import LiveStorages
from fastvideo.passes.localize import localize
from fastvideo.passes.outline_blocks import OutlineBlocks
from fastvideo.planning import plan
from fastvideo.report import BlockReport, ProgramReport

from .measuring import count_work

WIDTH, HEADS, TOKENS, LAYERS = 48, 6, 61, 5


class Layer(nn.Module):
    """Self-attention and an MLP, both modulated by a condition that has no tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift, self.qkv = nn.Linear(width, 2 * width), nn.Linear(width, 3 * width)
        self.out, self.mlp = nn.Linear(width, width), nn.Sequential(nn.Linear(width, 192), nn.Linear(192, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.shift(F.silu(condition))[:, None].chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.qkv(x * scale + shift).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:]))


class Stack(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 8)
        self.layers = nn.ModuleList(Layer(width) for _ in range(LAYERS))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, condition)
        return self.head(x)


def build() -> nn.Module:
    torch.manual_seed(0)
    return Stack().eval()


def inputs() -> dict[str, Tensor]:
    return {"x": torch.randn(1, TOKENS, 8), "condition": torch.randn(1, WIDTH)}


@lru_cache(maxsize=4)
def planned(ranks: int) -> tuple[ProgramReport, ir.Program, dict[int | None, int], str]:
    """Report, program, FLOPs that the ranks really did, and the text."""
    executor = "simulated" if ranks > 1 else "local"
    with fastvideo.compile(build(), ranks, executor=executor, device="cpu") as compiled:
        compiled(**inputs())
        work = count_work(lambda: compiled(**inputs()))
        (report,) = compiled.report.programs
        return report, compiled.programs[0], dict(work.total), compiled.explain()


def sections(report: ProgramReport) -> tuple[BlockReport, BlockReport]:
    blocks, outside = report.blocks
    assert outside.name == "outside the blocks" and outside.repeats == 1
    return blocks, outside


@pytest.mark.parametrize("ranks", [1, 3])
def test_blocks_are_counted_as_the_model_has_them(ranks: int) -> None:
    report, *_ = planned(ranks)
    blocks, outside = sections(report)
    assert (blocks.repeats, blocks.name) == (LAYERS, "layers.0 … layers.4")
    assert {"embed", "head"} <= set(outside.modules)
    placed = f"{TOKENS}@sp" if ranks > 1 else TOKENS
    assert blocks.stream == (f"f32[1, {placed}, {WIDTH}]",)


@pytest.mark.parametrize("ranks", [1, 3])
def test_sections_add_up_to_the_program_and_to_what_ran(ranks: int) -> None:
    report, _, ran, _ = planned(ranks)
    blocks, outside = sections(report)
    assert LAYERS * blocks.flops + outside.flops == report.flops
    if ranks > 1:
        assert [ran[rank] for rank in range(ranks)] == pytest.approx(report.flops_per_rank, rel=1e-3)
    counts = {c.op: 0 for c in report.collectives}
    for section in report.blocks:
        for collective in section.collectives:
            counts[collective.op] += section.repeats * collective.count
    assert counts == ({"fv.all_to_all": 2 * LAYERS, "fv.all_gather": 1} if ranks > 1 else {})
    step = report.step
    compute = sum(section.repeats * section.compute_seconds for section in report.blocks)
    assert step.compute_seconds == pytest.approx(compute) and step.compute_seconds <= step.one_rank_seconds
    assert step.speedup == pytest.approx(step.one_rank_seconds / (compute + step.communication_seconds))


def test_bytes_of_an_exchange() -> None:
    """Rank 0 of three holds 21 of 61 tokens, and sends the heads of the others: four of six."""
    report, *_ = planned(3)
    (together, back) = sorted(sections(report)[0].collectives, key=lambda c: -len(c.moves))
    assert len(together.moves) == 3 and together.bytes_sent == 3 * 21 * 4 * (WIDTH // HEADS) * 4
    assert len(back.moves) == 1 and together.seconds < 3 * back.seconds  # they share a latency


def test_reasons_for_whole_ops() -> None:
    report, _, _, text = planned(3)
    blocks, _ = sections(report)
    (modulation,) = [entry for entry in blocks.replicated if entry.op == "aten.linear.default"]
    assert (modulation.count, modulation.reason) == (1, "axis 'sp' leaves weights whole")
    for entry in report.replicated:
        if entry.reason == "cheaper than to divide it":
            assert entry.divided_seconds is not None and entry.divided_seconds >= entry.seconds
    assert "aten.linear.default over sp" in text or "axis 'sp' leaves weights whole" in text


def test_a_gathered_stream_is_shown_to_be_cheaper() -> None:
    """A stream that is cut by channels is gathered for column-cut projections: less than to sum what rows give."""
    with torch.device("meta"):
        model, given = Stack(768).eval(), {"x": torch.empty(1, 4096, 8), "condition": torch.empty(1, 768)}
    report = plan(model, given, parallel=Parallel(tp=2))
    blocks, _ = sections(report.programs[0])
    gathers = [entry for entry in blocks.collectives if entry.op == "fv.all_gather"]
    assert gathers and "cheaper than without" in str(report)
    for gather in gathers:
        assert gather.with_readers is not None and gather.otherwise is not None
        assert gather.seconds < gather.with_readers <= gather.otherwise


class Grouped(nn.Module):
    """Layers of attention whose eight heads share four keys, repeated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(96, 192, bias=False) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            q, k, v = layer(x).unflatten(-1, (-1, 12)).transpose(1, 2).split([8, 4, 4], 1)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x


def test_every_gather_says_what_it_saves_or_who_needs_it_whole() -> None:
    """Keys of four heads are gathered before they are repeated: fewer bytes than to exchange eight heads of queries."""
    with torch.device("meta"):
        model, given = Grouped().eval(), {"x": torch.empty(1, 300, 96)}
    report = plan(model, given, parallel=Parallel(sp=2))
    blocks, outside = sections(report.programs[0])
    (gather,) = [entry for entry in blocks.collectives if entry.op == "fv.all_gather"]
    assert "4, 300@sp" in gather.moves[0], "the keys, before they are repeated"
    assert gather.with_readers is not None and gather.otherwise is not None and not gather.taken_whole_by
    assert gather.seconds < gather.with_readers < gather.otherwise
    (last,) = [entry for entry in outside.collectives if entry.op == "fv.all_gather"]
    assert (last.taken_whole_by, last.otherwise) == (("output",), None)
    assert "taken whole by the result" in str(report)
    assert any("output" in entry["taken_whole_by"] for entry in report.to_dict()["programs"][0]["collectives"])


def test_a_gather_that_is_one_step_of_several_claims_nothing() -> None:
    """What is gathered over one axis and then over the other has no reader of its own."""
    with torch.device("meta"):
        model, given = Grouped().eval(), {"x": torch.empty(1, 300, 96)}
    report = plan(model, given, parallel=Parallel(sp=2, tp=2))
    entries = report.programs[0].collectives
    exchanged = {move.partition(" -> ")[0] for entry in entries for move in entry.moves}
    gathers = [entry for entry in entries if entry.op == "fv.all_gather"]
    steps = [entry for entry in gathers if entry.moves[0].partition(" -> ")[2] in exchanged]
    assert steps and all((e.with_readers, e.otherwise, e.taken_whole_by) == (None, None, ()) for e in steps)
    assert any(entry.otherwise is not None for entry in gathers)


class Sorted(nn.Module):
    """Four summary tokens beside many, and an op without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor, few: Tensor) -> Tensor:
        summary = torch.linalg.pinv(self.few(few))
        return self.many(x) + summary.sum()


@pytest.mark.filterwarnings("ignore:aten.linalg_pinv")
def test_too_few_pieces_and_no_rule() -> None:
    model = Sorted().eval()
    with fastvideo.compile(model, 5, executor="simulated", device="cpu", verify=False) as compiled:
        compiled(torch.randn(1, 500, 64), torch.randn(1, 4, 64))
        (report,) = compiled.report.programs
        text = compiled.explain()
    reasons = {(entry.op.split(".")[1], entry.reason) for entry in report.replicated}
    assert ("linear", "4 pieces at most for 5 ranks") in reasons
    assert ("linalg_pinv", "no factor rule") in {(op.rsplit("_atol", 1)[0], reason) for op, reason in reasons}
    assert "no factor rule" in text


@pytest.mark.parametrize(("ranks", "rank"), [(1, 0), (3, 0), (3, 2)])
def test_predicted_memory_is_what_a_run_holds(ranks: int, rank: int) -> None:
    """Against live bytes while the same rank's program runs on real tensors."""
    _, program, _, _ = planned(ranks)
    predicted = predict_memory(program, rank, device="cpu")
    local, at = localize(program, rank), program.mesh.coordinates(rank)
    ir.run_passes(local, [OutlineBlocks(generator="eager")])
    state = {**dict(build().named_parameters()), **dict(build().named_buffers())}
    params = {
        param.source: ir.local_slice(state[param.source].detach(), kind, program.mesh, at).clone()
        for param, kind in ((local.params[node.name], ir.tensor_type(node)) for node in local.param_nodes)
    }
    given = list(inputs().values())

    class Zeros:
        def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor:
            return send.new_zeros(sum(receive_numels))

        def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor:
            return value.new_zeros(sum(numels))

        def all_reduce(self, axis: str, value: Tensor) -> Tensor:
            return torch.zeros_like(value)

    with torch.no_grad(), LiveStorages([*params.values(), *given]) as live:
        ir.interpreter.run_rank(local, params, given, Zeros())
    assert predicted.activations == pytest.approx(live.peak, rel=0.1)
    assert predicted.weights == sum(tensor.nbytes for tensor in params.values())
    assert predicted.inputs == sum(tensor.nbytes for tensor in given)
    largest = TOKENS * 192 * 4 // ranks
    assert predicted.activations > largest


def test_predicted_memory_of_the_first_call_is_a_lower_bound() -> None:
    """While a capture is checked, the model itself runs, and its Python frames hold tensors that no op needs."""
    model, given = build(), inputs()
    captured = capture(model, (), given, verify=False)
    predicted = predict_eager_memory(captured.program, device="cpu").activations
    with torch.no_grad(), LiveStorages([*model.parameters(), *given.values()]) as live:
        model(**given)
    widest = (192 + 2 * WIDTH) * TOKENS * 4  # the MLP's inner activations, what they are made from, and the residual
    assert widest <= predicted <= live.peak


def test_divided_activations_shrink() -> None:
    one, three = (predict_memory(planned(ranks)[1], device="cuda") for ranks in (1, 3))
    assert three.activations < 0.6 * one.activations
    assert three.weights == one.weights and 0 < three.buffers <= three.activations
    assert three.total == three.weights + three.inputs + three.activations + three.allowance
    assert three.allowance > one.allowance > 0


def test_data_is_json_and_says_what_the_text_says() -> None:
    with fastvideo.compile(build(), 2, executor="simulated", device="cpu", verify=False) as compiled:
        compiled(**inputs())
        text, data = compiled.explain(), compiled.report.to_dict()
    (program,) = json.loads(json.dumps(data))["programs"]
    assert f"{LAYERS} × layers.0 … layers.4" in text
    assert program["blocks"][0]["repeats"] == LAYERS
    assert f"{program['step']['seconds'] * 1e6:.0f} µs on 2 ranks" in text
    assert "while the first call is checked" not in text and program["memory"]["first_call"] is None
    widest = max(len(line) for line in text.splitlines())
    assert widest <= 150, "the text does not fit a terminal"
