"""``offload-params``: weights stay on the host, and the device holds those of two blocks at a time."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvideo
import fastvideo_ir as ir
from fastvideo.frontends.capture.visiting import WeightsVisit
from fastvideo.memory_limit import check_memory, remedy
from fastvideo.passes.analysis import local_bytes, predict_memory, weight_bytes
from fastvideo.passes.analysis.live_storages import LiveStorages
from fastvideo.passes.localize import localize
from fastvideo.passes.offload_params import OffloadParams
from fastvideo.passes.outline_blocks import OutlineBlocks
from fastvideo.passes.pipelines import Target
from fastvideo.planned import Planned
from fastvideo_ir import fetching
from fastvideo_ir.block import Block
from fastvideo_ir.errors import DeviceMemoryError, InvalidArgumentError, ShardingError, UnknownNameError
from fastvideo_ir.fetching import fetch, kept_on_host
from fastvideo_ir.memory import keep

from ..e2e import toy
from .running import assert_same_numbers, program, run_passes
from .test_plan_sharding import PLANNED, attention

DEPTH = 4


def chain(layers: int, width: int = 256) -> ir.Program:
    """``layers`` square matrices, one after the other."""
    params = [f'%w{n} : f32[{width}, {width}] = param "w{n}" parameter' for n in range(layers)]
    calls = ["%x : f32[1, 4, 256] = input"]
    for n in range(layers):
        calls.append(f"%y{n} : f32[1, 4, {width}] = aten.linear.default({f'%y{n - 1}' if n else '%x'}, %w{n})")
    return program("\n".join([*params, *calls, f"return (%y{layers - 1})"]), "communicating")


def fetches(planned: ir.Program) -> int:
    return sum(node.target is fetch for node in planned.nodes)


def test_two_matrices_of_sixteen_are_on_the_device() -> None:
    before = chain(16)
    after = run_passes(before, [OffloadParams(always=True)])
    matrix, value = 256 * 256 * 4, 4 * 256 * 4
    found = predict_memory(after, device="cpu")
    assert (found.weights, found.host) == (0, 16 * matrix)
    # A sixteenth of all is an eighth of what is brought at once: two matrices a stretch, and those of the next.
    assert 2 * matrix <= found.activations <= 4 * matrix + 3 * value
    assert_same_numbers(before, after)


def test_prediction_is_made_once_and_anew_behind_a_change() -> None:
    planned = chain(16)
    before = predict_memory(planned, device="cpu")
    assert predict_memory(planned, device="cpu") is before
    assert predict_memory(planned, device="cuda").allowance > before.allowance == 0
    ir.run_passes(planned, [OffloadParams(always=True)])
    assert predict_memory(planned, device="cpu").weights < before.weights


@pytest.mark.parametrize("room", [0.4, 0.7, 1.2])
def test_as_many_blocks_stay_as_there_is_room_for(room: float) -> None:
    before = chain(16)
    memory = int(room * predict_memory(before, device="cpu").total / 0.9)
    after = run_passes(before, [OffloadParams(memory=memory)])
    found = predict_memory(after, device="cpu").total
    assert found <= 0.9 * memory
    if room > 1:
        assert not fetches(after)
    else:
        assert 0 < fetches(after) < 16 and found > 0.9 * memory - 4 * 256 * 256 * 4


def test_pieces_of_sharded_params_are_fetched_before_they_are_gathered() -> None:
    before = attention(1, 61, 8, "sp=2")
    planned = run_passes(before, f"{PLANNED},shard-params{{always=1}}")
    after = run_passes(planned, [OffloadParams(always=True)])
    away = kept_on_host(after)
    assert sum(local_bytes(after, node, 0) for node in away) > 0.9 * weight_bytes(planned, 0)
    assert all(
        user.target is ir.dialect.all_gather for node in away for fetched in node.users for user in fetched.users
    )
    assert_same_numbers(before, after)


def test_model_gives_the_same_bits_and_weights_come_and_go() -> None:
    model, given = toy.build(DEPTH), toy.inputs()
    results, peaks = [], []
    for offload in ("none", "blocks"):
        with fastvideo.compile(model, device="cpu", verify=False, offload=offload) as compiled:
            compiled(**given)
            with LiveStorages([*model.parameters(), *model.buffers(), *_tensors(given)]) as live:
                results.append(compiled(**given).sample)
            peaks.append(live.peak)
            (planned,) = compiled.programs
            text = compiled.explain()
    assert torch.equal(*results)
    assert "of weights in the host's memory, fetched block by block" in text
    matrices = sum(p.nbytes for p in model.parameters() if p.ndim > 1)
    host = predict_memory(planned, device="cpu").host
    assert host == pytest.approx(matrices, rel=0.01)  # all of them, and each is fetched once
    assert fetches(planned) == len(kept_on_host(planned))
    assert 0 < peaks[1] - peaks[0] <= 2.5 * matrices / DEPTH  # a fetch is a copy, and two blocks' are there at once


def test_prologue_and_its_weights_are_left_out_where_its_results_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given, came = toy.build(2), toy.inputs(), []
    start = fetching.start
    monkeypatch.setattr(fetching, "start", lambda value, device: (came.append(value.nbytes), start(value, device))[1])
    options = {"invariant": ("context",), "device": "cpu", "verify": False}
    with fastvideo.compile(model, offload="blocks", **options) as compiled, torch.no_grad():
        expected, brought = model(**given).sample, []
        for _ in range(2):
            came.clear()
            torch.testing.assert_close(compiled(**given).sample, expected)
            brought.append(sum(came))
        (planned,) = compiled.programs
    read_once = [n for n in planned.nodes if n.target is fetch and ir.info(n).invariant]
    assert brought[0] - brought[1] == sum(ir.tensor_type(n).nbytes for n in read_once) > 0
    kept = sum(ir.tensor_type(n).nbytes for n in planned.nodes if n.target is keep)
    without = fastvideo.compile(model, offload="blocks", **{**options, "invariant": ()})
    with without as compiled:
        compiled(**given)
        peak = predict_memory(compiled.programs[0], device="cpu").activations
    assert 0 < kept <= predict_memory(planned, device="cpu").activations - peak + kept // 2


def test_nothing_is_kept_for_a_prompt_where_memory_is_short() -> None:
    """What is kept for two long prompts is twice what the model takes in a call of its own."""
    model, given = toy.build(2), {**toy.inputs(), "context": torch.randn(1, 2048, toy.WIDTH)}
    options = {"device": "cpu", "verify": False, "offload": "none"}

    def planned(**asked: Any) -> Planned:
        with fastvideo.compile(model, **{**options, **asked}) as compiled, torch.no_grad():
            torch.testing.assert_close(compiled(**given).sample, model(**given).sample)
            text = compiled.explain()
            ((found,),) = compiled._specializations.values()
        assert ("nothing for context: memory is too short" in text) == (asked.get("max_memory") == short)
        return found.planned

    short = -1
    with_kept, without = planned(invariant=("context",)).memory.total, planned().memory.total
    short = (with_kept + without) // 2
    assert planned(invariant=("context",), max_memory=short).memory.total == without < short < with_kept
    assert planned(invariant=("context",), max_memory=2 * with_kept).memory.total == with_kept
    with (
        fastvideo.compile(model, **options, invariant=("context",), max_memory=without - 10_000) as compiled,
        pytest.raises(DeviceMemoryError, match='it fits with offload="blocks"'),
    ):
        compiled(**given)


def _tensors(given: dict[str, object]) -> list[Tensor]:
    return [value for value in given.values() if isinstance(value, Tensor)]


def test_memory_decides_what_stays_and_what_is_refused() -> None:
    model, given = toy.build(DEPTH), toy.inputs()
    expected, whole = model(**given).sample, sum(p.nbytes for p in model.parameters())
    blocks = []
    for limit in (10 * whole, int(1.02 * whole)):
        with fastvideo.compile(model, device="cpu", verify=False, max_memory=limit) as compiled:
            torch.testing.assert_close(compiled(**given).sample, expected)
            (planned,) = compiled.programs
        local = localize(planned, 0)
        ir.run_passes(local, [OutlineBlocks()])
        blocks.append((fetches(planned), len({n.target for n in local.nodes if isinstance(n.target, Block)})))
    (none, codes), (some, codes_with_fetches) = blocks
    assert none == 0 < some < sum(p.ndim > 1 for p in model.parameters())
    assert codes_with_fetches <= codes + 2  # blocks whose weights stay and blocks whose weights come are the same code
    with (
        fastvideo.compile(toy.build(1), device="cpu", verify=False, max_memory=1000) as compiled,
        pytest.raises(DeviceMemoryError, match=r"KiB weights, .* activations, .*no setting makes it fit"),
    ):
        compiled(**given)


def test_weights_visit_a_device_op_by_op() -> None:
    """All is computed there, none of the model stays: shown on a device without values."""
    model, given = toy.build(DEPTH), toy.inputs()
    there = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in given.items()}
    largest = max(p.nbytes for p in model.parameters())
    peaks = []
    for visited in (model, copy.deepcopy(model).to("meta")):
        live = LiveStorages([*visited.parameters(), *visited.buffers()])
        with torch.no_grad(), live, WeightsVisit(torch.device("meta")):
            result = visited(**there).sample
            made = torch.zeros(3, device="cpu")
        peaks.append(live.peak)
        assert result.is_meta and made.is_meta
    assert peaks[0] <= peaks[1] + 2 * largest
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_more_gpus_are_suggested_where_they_help() -> None:
    weights = predict_memory(chain(16), device="cuda").total

    def plan(target: Target) -> Planned:
        if target.ranks == 2:
            raise ShardingError("three heads and a half")
        return Planned(chain(16 // target.ranks), target)

    target = Target(1, "cuda", memory=int(0.999 * weights))
    assert remedy(target, plan).startswith("it fits with num_gpus=4, where it takes ")
    with pytest.raises(DeviceMemoryError, match=r"model takes .* MiB per rank .* CUDA\), .*it fits with num_gpus=4"):
        check_memory("a model", plan(target), plan)
    check_memory("a model", plan(replace(target, memory=weights)), plan)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"offload": "block"}, UnknownNameError, "did you mean 'blocks'"),
        ({"offload": "sequential"}, InvalidArgumentError, "one model has none to take turns with"),
        ({"max_memory": "plenty"}, InvalidArgumentError, "max_memory='plenty' is no size"),
        ({"max_memory": 0}, InvalidArgumentError, "max_memory=0 is no size"),
        ({"offload": "blocks", "passes": "default,-offload-params"}, InvalidArgumentError, "lack 'offload-params'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fastvideo.compile(toy.build(1), device="cpu", **options)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["none", "blocks"])
def test_prediction_is_what_a_gpu_measures(offload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_CODEGEN", "eager")  # fused code keeps fewer values than are counted
    width, depth = 2048, 12
    layer = torch.nn.TransformerEncoderLayer(width, 16, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    model = torch.nn.Sequential(*(copy.deepcopy(layer) for _ in range(depth))).eval().bfloat16()
    gc.collect()  # what earlier tests have left
    before = torch.cuda.memory_allocated()
    x = torch.randn(1, 8192, width, device="cuda", dtype=torch.bfloat16)
    with fastvideo.compile(model, device="cuda", verify=False, offload=offload) as compiled:
        first = compiled(x)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        assert torch.equal(compiled(x), first)
        measured = torch.cuda.max_memory_allocated() - first.nbytes - before
        found = predict_memory(compiled.programs[0], device="cuda")
    assert measured == pytest.approx(found.total - found.allowance, rel=0.1)
    assert (found.host > 0) == (offload == "blocks")
