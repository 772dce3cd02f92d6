"""``quantize-linear``: which layers it takes, what it makes of their weights, and that ranks agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import settings
from fastvideo.backends import fused
from fastvideo.backends.fused import quantization
from fastvideo.frontends.capture import capture
from fastvideo.passes import pipelines
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo.passes.quantize_linear import NothingQuantizedWarning, QuantizeLinear
from fastvideo_ir.errors import BackendUnavailableError, InvalidArgumentError, ParseError, UnknownNameError
from fastvideo_ir.ops.define import aten
from tests.e2e import toy
from tests.e2e.measuring import count_work
from tests.passes.running import program, run_passes

EVERY = -1.0
"""A gain that every layer has."""
BOUND = {"fp8": 0.06, "int8": 0.02}


def quantized(ranks: int = 1, **options: Any) -> list[ir.Pass]:
    steps = default_pipeline(Target(ranks))
    at = next(number for number, step in enumerate(steps) if step.name == "fuse-linear-gelu")
    return [*steps[:at], QuantizeLinear(**{"least_gain": EVERY, **options}), *steps[at:]]


class Mlp(nn.Module):
    """Two readers of one activation, and a feed-forward with a GELU between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(24, 40), nn.Linear(24, 16, bias=False)
        self.wide, self.narrow = nn.Linear(24, 96), nn.Linear(96, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.left(x), self.right(x), self.narrow(F.gelu(self.wide(x), approximate="tanh"))


def targets(program: ir.Program) -> list[Any]:
    return [node.target for node in program.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_values_are_those_of_the_quantized_definition(name: str) -> None:
    fmt, model, x = quantization.named(name), Mlp().eval(), torch.randn(2, 50, 24)
    with torch.no_grad(), fastvideo.compile(model, device="cpu", passes=quantized(format=name)) as fast:
        outputs = fast(x)
        ops = targets(fast.programs[0])

    def linear(layer: nn.Linear, value: Tensor) -> Tensor:
        step = value.abs().amax(-1, keepdim=True) / fmt.largest
        weight_step = layer.weight.abs().amax(1, keepdim=True) / fmt.largest
        rounded = [
            (v / s).to(fmt.dtype) if name == "fp8" else (v / s).round()
            for v, s in ((value, step), (layer.weight, weight_step))
        ]
        return F.linear(rounded[0].float() * step, rounded[1].float() * weight_step, layer.bias)

    with torch.no_grad():
        hidden = F.gelu(linear(model.wide, x), approximate="tanh")
        expected = linear(model.left, x), linear(model.right, x), linear(model.narrow, hidden)
        exact = model(x)
    for output, wanted, plain in zip(outputs, expected, exact, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
        error = float((output - plain).norm() / plain.norm())
        assert 1e-4 < error < BOUND[name]
    assert ops.count(fused.scaled_linear_op) == 4
    assert ops.count(fused.quantize_tokens_op) == 2, "readers of one activation share its codes"
    assert aten.gelu.default not in ops and fused.linear_gelu_op not in ops, "the GELU is part of quantizing"


def test_gelu_that_others_read_too_stays() -> None:
    before = program("""
        %w : f32[8, 6] = param "w" parameter
        %x : f32[5, 6] = input
        %g : f32[5, 6] = aten.gelu.default(%x, approximate="tanh")
        %y : f32[5, 8] = aten.linear.default(%g, %w)
        return (%y, %g)""")
    after = run_passes(before, [QuantizeLinear(least_gain=EVERY)])
    assert [node.args[2] for node in after.nodes if node.target is fused.quantize_tokens_op] == [False]
    assert aten.gelu.default in targets(after)


def test_only_the_models_own_weights_and_a_weight_read_twice_is_quantized_once() -> None:
    before = program("""
        %w : f32[6, 6] = param "w" parameter
        %x : f32[5, 6] = input
        %made : f32[6, 6] = aten.relu.default(%w)
        %a : f32[5, 6] = aten.linear.default(%x, %w)
        %b : f32[5, 6] = aten.linear.default(%a, %w)
        %c : f32[5, 6] = aten.linear.default(%b, %made)
        return (%c)""")
    after = run_passes(before, [QuantizeLinear(least_gain=EVERY)])
    assert targets(after).count(aten.linear.default) == 1
    assert sorted(param.key for param in after.params.values()) == ["w", "w|fp8-codes", "w|fp8-scales"]


def test_small_layers_stay_exact() -> None:
    sizes = """
        %w : bf16[2048, 1024] = param "w" parameter
        %u : bf16[64, 1024] = param "u" parameter
        %x : bf16[{tokens}, 1024] = input
        %y : bf16[{tokens}, 1024] = input
        %a : bf16[{tokens}, 2048] = aten.linear.default(%x, %w)
        %b : bf16[{tokens}, 64] = aten.linear.default(%y, %u)
        return (%a, %b)"""
    after = run_passes(program(sizes.format(tokens=16384)), [QuantizeLinear()])
    assert sorted(param.key for param in after.params.values() if param.recipe) == ["w|fp8-codes", "w|fp8-scales"]
    with pytest.warns(NothingQuantizedWarning, match="none of the 2 linear layers is so large"):
        after = run_passes(program(sizes.format(tokens=64)), [QuantizeLinear()])
    assert not any(param.recipe for param in after.params.values())


def test_what_leaves_every_layer_exact_is_said() -> None:
    def warned_by(step: QuantizeLinear, text: str) -> str:
        with pytest.warns(NothingQuantizedWarning) as seen:
            run_passes(program(text), [step])
        (warning,) = seen
        return str(warning.message)

    given = """
        %v : f32[16384, 2048] = input
        %x : f32[8192, 2048] = input
        %a : f32[8192, 16384] = aten.linear.default(%x, %v)
        return (%a)"""
    assert warned_by(QuantizeLinear(format="int8"), given) == (
        "quantize-linear to int8 leaves every layer exact: "
        "no linear layer reads a weight of the model's own in floating point"
    )
    own = given.replace("input", 'param "v" parameter', 1)
    imprecise = QuantizeLinear(evaluate=lambda probe: [1.0])
    assert "each of the 1 linear layers that are large enough has a measured error above" in warned_by(imprecise, own)
    two = """
        %w : f32[2048, 2048] = param "w" parameter
        %u : f32[4, 2048] = param "u" parameter
        %x : f32[8192, 2048] = input
        %a : f32[8192, 2048] = aten.linear.default(%x, %w)
        %b : f32[8192, 4] = aten.linear.default(%x, %u)
        return (%a, %b)"""
    large_is_bad = QuantizeLinear(evaluate=lambda probe: [1.0, 0.0])
    assert "1 of the 2 linear layers that are large enough have" in warned_by(large_is_bad, two)


def test_quantization_that_changes_nothing_is_warned_of_at_the_first_call() -> None:
    model, x = nn.Linear(8, 8).eval(), torch.randn(2, 8)
    with fastvideo.compile(model, device="cpu", quantization="int8") as compiled, torch.no_grad():
        with pytest.warns(NothingQuantizedWarning, match="none of the 1 linear layers is so large"):
            found = compiled(x)
        assert torch.equal(found, model(x))


class OneBadLayer(nn.Module):
    """In ``bad`` almost all of the output comes from channels that a common scale per token rounds away in int8."""

    def __init__(self) -> None:
        super().__init__()
        self.good, self.bad = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        with torch.no_grad():
            self.bad.weight[:, 0] = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loud = torch.cat([1e4 * x[..., :1], x[..., 1:]], -1)
        return self.good(x), self.bad(loud)


def test_layer_whose_measured_error_is_large_stays_exact() -> None:
    model, x = OneBadLayer().eval(), torch.randn(1, 70, 32)
    captured = capture(model, (x,), {})

    def evaluate(probe: ir.Program) -> list[Any]:
        with torch.no_grad():
            return ir.interpreter.evaluate(probe, captured.params, [x])

    first = default_pipeline(Target())[:2]
    step = QuantizeLinear(format="int8", least_gain=EVERY)
    measured = run_passes(captured.program, [*first, replace(step, evaluate=evaluate)])
    blind = run_passes(captured.program, [*first, step])
    assert targets(blind).count(fused.scaled_linear_op) == 2
    (kept,) = [node for node in measured.nodes if node.target is aten.linear.default]
    assert measured.params[kept.args[1].name].source == "bad.weight"


@pytest.mark.parametrize("verify", [True, False])
def test_compile_measures_on_the_first_inputs_where_it_may_run_the_model(verify: bool) -> None:
    seen: list[bool] = []

    class Look(QuantizeLinear):
        name = "look-test"

        def run(self, program: ir.Program) -> None:
            seen.append(self.evaluate is not None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "QuantizeLinear", Look)
        patch.setattr(settings, "QuantizeLinear", Look)
        with fastvideo.compile(toy.build(1), device="cpu", quantization="fp8", verify=verify) as compiled:
            compiled(**toy.inputs())
    assert seen == [verify]


@pytest.mark.parametrize(
    "options",
    [
        {"parallel": fastvideo.Parallel(sp=3), "executor": "simulated"},
        {"parallel": fastvideo.Parallel(tp=2), "executor": "simulated"},
        {"parallel": fastvideo.Parallel(tp=3), "executor": "simulated"},
        {"parallel": fastvideo.Parallel(tp=2), "executor": "mp"},
    ],
    ids=["sp3", "tp2", "tp3", "mp"],
)
def test_ranks_compute_what_one_rank_does_and_hold_pieces_of_codes(options: dict[str, Any]) -> None:
    model, given = toy.build(1), toy.inputs()
    with fastvideo.compile(model, device="cpu", passes=quantized()) as one:
        expected = one(**given).sample
        total = one.report.programs[0].param_bytes_per_rank[0]
        work = count_work(lambda: one(**given)).total.total()
    ranks = options["parallel"].num_ranks
    with fastvideo.compile(model, device="cpu", passes=quantized(ranks), **options) as several:
        found = several(**given).sample
        held = several.report.programs[0].param_bytes_per_rank
        if options["executor"] == "simulated":
            assert count_work(lambda: several(**given)).total.total() <= 1.15 * work, "ranks repeat the products"
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    if options["parallel"].mesh.names == ("tp",):
        assert max(held) < 0.75 * total if ranks == 2 else max(held) < 0.6 * total


@pytest.mark.parametrize("executor", ["local", "simulated"])
def test_loaded_weights_take_a_quarter_of_their_fp32_bytes(executor: str) -> None:
    model = nn.Sequential(nn.Linear(128, 256), nn.Linear(256, 128)).eval()
    with fastvideo.compile(model, device="cpu", executor=executor, passes=quantized()) as compiled:
        compiled(torch.randn(3, 128))
        (found,) = next(iter(compiled._specializations.values()))
        loaded = found.executor._params
    matrices = [tensor for tensor in loaded.values() if tensor.dim() == 2]
    assert [tensor.dtype for tensor in matrices] == [torch.float8_e4m3fn] * 2, "no exact copy is kept"
    assert sum(tensor.nbytes for tensor in matrices) == 2 * 128 * 256


def test_changed_weights_are_quantized_anew() -> None:
    model, x = nn.Linear(16, 16).eval(), torch.randn(4, 16)
    with fastvideo.compile(model, device="cpu", passes=quantized()) as compiled:
        before = compiled(x)
        with torch.no_grad():
            model.weight.mul_(2)
        compiled.update_weights()
        torch.testing.assert_close(compiled(x) - model.bias, 2 * (before - model.bias), rtol=1e-5, atol=1e-5)


def test_wrong_names_and_settings_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.build(1)
    with pytest.raises(UnknownNameError, match="unknown quantization 'fp4'; known: fp8, int8"):
        fastvideo.compile(model, device="cpu", quantization="fp4")
    with pytest.raises(InvalidArgumentError, match="'fp8' has no effect: the passes that were given lack"):
        fastvideo.compile(model, device="cpu", quantization="fp8", passes="canonicalize")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    reason = "fp8 needs a GPU of compute capability 8.9 or more; this NVIDIA A100 has 8.0"
    assert quantization.refusal(quantization.FORMATS["fp8"], "cuda") == reason
    assert quantization.refusal(quantization.FORMATS["int8"], "cuda") is None
    with pytest.raises(BackendUnavailableError, match="needs a GPU of compute capability"):
        run_passes(program("%x : f32[2] = input\nreturn (%x)"), [QuantizeLinear(device="cuda")])


def test_recipes_travel_as_text() -> None:
    with fastvideo.compile(nn.Linear(8, 8).eval(), device="cpu", passes=quantized()) as compiled:
        compiled(torch.randn(2, 8))
        text = ir.print_program(compiled.programs[0])
    assert ir.print_program(ir.parse_program(text)) == text
    with pytest.raises(ParseError, match="unknown recipe 'fp4-codes'; known: fp8-codes"):
        ir.parse_program(text.replace("fp8-codes", "fp4-codes"))
