"""Four DiTs from diffusers become programs that are bit-equal to eager, with places and types on every node."""

from __future__ import annotations

import linecache
import time

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, WanTransformer3DModel

import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured, capture
from fastvideo.frontends.capture import driver as capture_driver

from ..models import CASES, ODD_CASES, ModelCase
from .capturing import assert_same, assert_well_formed, run, targets


@pytest.fixture(scope="module")
def captured_cases() -> dict[str, tuple[torch.nn.Module, Captured]]:
    result = {}
    for case in CASES:
        model = case.build()
        result[case.name] = (model, capture(model, (), case.inputs(0)))
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_program_is_bit_equal_to_eager_on_inputs_it_was_not_captured_with(case: ModelCase, captured_cases) -> None:
    model, captured = captured_cases[case.name]
    assert captured.report.strategy == "export"
    assert captured.report.verified == "bit-equal"
    outputs = []
    for seed in (0, 1, 2):
        with torch.no_grad():
            expected = model(**case.inputs(seed))
        outputs.append(run(captured, **case.inputs(seed)))
        assert_same(outputs[-1], expected)
    # The comparison would prove nothing if the output did not depend on the inputs.
    assert not torch.allclose(outputs[0][0], outputs[1][0], atol=1e-2)


@pytest.mark.parametrize("case", ODD_CASES, ids=lambda case: case.name)
def test_odd_head_counts_in_fp64_are_bit_equal_to_eager(case: ModelCase) -> None:
    model = case.build(torch.float64)
    captured = capture(model, (), case.inputs(0, torch.float64))
    with torch.no_grad():
        expected = model(**case.inputs(1, torch.float64))
    assert expected[0].dtype == torch.float64
    assert_same(run(captured, **case.inputs(1, torch.float64)), expected)


OTHER_STRATEGIES = [(case, "real-values") for case in CASES] + [
    pytest.param(CASES[2], "dynamo", marks=pytest.mark.torch("2.13"))  # older ones refuse what the model calls
]


@pytest.mark.parametrize(("case", "strategy"), OTHER_STRATEGIES, ids=lambda value: getattr(value, "name", value))
def test_each_other_strategy_alone_is_bit_equal_to_eager(
    case: ModelCase, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tuple(entry for entry in capture_driver.STRATEGIES if entry[0] == strategy)
    monkeypatch.setattr(capture_driver, "STRATEGIES", only)
    model = case.build()
    captured = capture(model, (), case.inputs(0))
    assert captured.report.strategy == strategy
    assert_well_formed(captured)
    with torch.no_grad():
        assert_same(run(captured, **case.inputs(1)), model(**case.inputs(1)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_program_is_functional_typed_and_free_of_devices(case: ModelCase, captured_cases) -> None:
    _, captured = captured_cases[case.name]
    assert_well_formed(captured)
    kept_whole = {"aten.linear.default", "aten.scaled_dot_product_attention.default", "aten.layer_norm.default"}
    assert kept_whole <= set(targets(captured))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_types_are_what_the_nodes_yield(case: ModelCase, captured_cases) -> None:
    _, captured = captured_cases[case.name]
    inputs = captured.call.flatten((), case.inputs(0))
    for node, tensor in zip(captured.program.input_nodes, inputs, strict=True):
        assert ir.value_type(node) == ir.TensorType.of(tensor)
    for node in captured.program.param_nodes:
        assert ir.value_type(node) == ir.TensorType.of(captured.params[captured.program.params[node.name].source])
    with torch.no_grad():
        results = ir.interpreter.evaluate(captured.program, captured.params, inputs)
    for node, result in zip(captured.program.output_values, results, strict=True):
        assert ir.value_type(node) == ir.TensorType.of(result)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_params_are_the_models_own_tensors_under_their_own_names(case: ModelCase, captured_cases) -> None:
    model, captured = captured_cases[case.name]
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kinds = {param.source: param.kind for param in captured.program.params.values()}
    weights = [name for name, kind in kinds.items() if kind is not ir.ParamKind.CONSTANT]
    assert len(weights) > 50
    for name in weights:
        assert captured.params[name] is own[name]
        assert kinds[name] is (
            ir.ParamKind.PARAMETER if name in dict(model.named_parameters()) else ir.ParamKind.BUFFER
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_locations_name_the_module_and_the_models_own_line(case: ModelCase, captured_cases) -> None:
    model, captured = captured_cases[case.name]
    paths = {path for path, _ in model.named_modules()}
    modules = dict(model.named_modules())
    linears = 0
    for node in captured.program.nodes:
        if node.op != "call_function":
            continue
        location = ir.info(node).location
        assert location is not None
        assert location.module in paths
        assert "/diffusers/" in location.file
        assert linecache.getline(location.file, location.line).strip()
        if str(node.target) == "aten.linear.default":
            linears += 1
            # A linear belongs to the very module that holds its weight.
            weight = captured.program.params[node.args[1].name].source
            assert weight == f"{location.module}.weight"
            assert isinstance(modules[location.module], torch.nn.Linear)
    assert linears > 20


def test_interleaving_writes_into_an_empty_tensor_become_stacks(captured_cases) -> None:
    """Wan's rotary embedding writes cos and sin parts into every other element of an empty tensor."""
    _, captured = captured_cases["wan-8heads"]
    names = targets(captured)
    assert not any("scatter" in name or "empty" in name or "copy" in name for name in names)
    assert names.count("aten.stack.default") == 6  # q and k of three blocks


REAL_SIZES = {
    "wan-1.3b": (
        lambda: WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30),
        {"hidden_states": (1, 16, 21, 60, 104), "timestep": (1,), "encoder_hidden_states": (1, 512, 4096)},
        32_760,
        30,
    ),
    "hunyuan": (
        lambda: HunyuanVideoTransformer3DModel(num_layers=4, num_single_layers=8),
        {
            "hidden_states": (1, 16, 33, 90, 160),
            "timestep": (1,),
            "encoder_hidden_states": (1, 256, 4096),
            "encoder_attention_mask": (1, 256),
            "pooled_projections": (1, 768),
            "guidance": (1,),
        },
        118_800,
        14,  # 12 blocks instead of 60, and the two that refine the text
    ),
}


@pytest.mark.parametrize("name", REAL_SIZES)
def test_real_sizes_are_captured_from_shapes_alone(name: str) -> None:
    build, shapes, tokens, attentions = REAL_SIZES[name]
    with torch.device("meta"):
        model = build().eval()
        integers = ("timestep", "encoder_attention_mask")
        inputs = {
            key: torch.empty(shape, dtype=torch.int64 if key in integers else torch.float32)
            for key, shape in shapes.items()
        }
    started = time.process_time()
    captured = capture(model, (), {**inputs, "return_dict": False})
    seconds = time.process_time() - started
    assert captured.report.verified == "not verified"
    assert targets(captured).count("aten.scaled_dot_product_attention.default") == (
        2 * attentions if name.startswith("wan") else attentions
    )
    assert any(tokens in ir.tensor_type(node).shape for node in captured.program.nodes if "linear" in node.name)
    assert captured.params["proj_out.weight"] is model.proj_out.weight
    # 6 and 3 s on an idle machine; time of the processor, since a busy machine is no fault of the capture.
    assert seconds < 60
