"""Any way of calling a model and any structure of its result survive capture."""

from __future__ import annotations

import enum
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

import fastvideo_ir as ir
from fastvideo.frontends.capture import capture, signature_of
from fastvideo_ir.errors import InvalidArgumentError

from .capturing import assert_same, capture_toy, module, run, targets

Tensor = torch.Tensor
Pair = namedtuple("Pair", ["left", "right"])


class Mode(enum.Enum):
    ADD = 1
    SUB = 2


@dataclass
class Conditions:
    """Not registered with torch's pytree."""

    text: list[Tensor]
    scale: float = 2.0
    extra: dict[str, Tensor] = field(default_factory=dict)


class Cache:
    """A plain holder of tensors, as key-value caches are."""

    def __init__(self, key: Tensor) -> None:
        self.keys = [key]
        self.length = key.shape[0]

    def update(self, key: Tensor) -> Tensor:
        self.keys.append(key)
        return key


def x_and_other() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3), torch.randn(2, 3)


def call(self: nn.Module, x: Tensor, y: Tensor | None = None, scale: float = 1.0, *, negate: bool = False) -> Tensor:
    result = x * scale if y is None else x * scale + y
    return -result if negate else result


def test_one_key_for_every_way_to_write_the_same_call() -> None:
    model, (x, y) = module(call), x_and_other()
    keys = {
        signature_of(model, (x, y), {}),
        signature_of(model, (x,), {"y": y}),
        signature_of(model, (), {"y": y, "x": x}),
        signature_of(model, (y, x, 1.0), {"negate": False}),
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.ones(2, 3),), {}),
        ((torch.ones(2, 4), torch.ones(2, 4)), {}),
        ((torch.ones(2, 3).double(), torch.ones(2, 3)), {}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"scale": 2.0}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"scale": 1}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"scale": True}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"scale": -0.0}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"negate": True}),
    ],
)
def test_another_key_for_every_call_that_may_compute_something_else(args: Any, kwargs: Any) -> None:
    model = module(call)
    base = signature_of(model, (torch.ones(2, 3), torch.ones(2, 3)), {})
    assert signature_of(model, args, kwargs) != base


def test_the_same_tensor_twice_is_another_call_than_two_equal_tensors() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x * 2 if x is y else x + y * 3

    model, (x, y) = module(forward), x_and_other()
    assert signature_of(model, (x, x), {}) != signature_of(model, (x, y), {})
    same, different = capture(model, (x, x), {}), capture(model, (x, y), {})
    assert_same(run(same, y, y), y * 2)
    assert_same(run(different, y, x), y + x * 3)
    with pytest.raises(InvalidArgumentError, match="'y'"):
        run(same, x, y)


def test_nan_arguments_have_equal_keys() -> None:
    model, (x, _) = module(call), x_and_other()
    first = signature_of(model, (x,), {"scale": float("nan")})
    assert first == signature_of(model, (x,), {"scale": float("nan")})
    assert hash(first) == hash(signature_of(model, (x,), {"scale": float("nan")}))


def test_program_serves_the_call_in_any_writing() -> None:
    model, (x, y) = module(call), x_and_other()
    captured = capture(model, (x,), {"y": y, "negate": True})
    for args, kwargs in [((y,), {"y": x}), ((y, x), {}), ((), {"y": x, "x": y, "scale": 1.0})]:
        assert_same(run(captured, *args, **{**kwargs, "negate": True}), -(y * 1.0 + x))


def test_inputs_stand_in_the_order_of_the_program() -> None:
    def forward(self: nn.Module, c: Conditions, x: Tensor) -> Tensor:
        return x + c.text[0] * c.scale - c.extra["late"] / 2 + c.text[1].sum()

    parts = [torch.randn(2, 3) for _ in range(4)]
    conditions = Conditions([parts[0], parts[1]], 3.0, {"late": parts[2]})
    captured = capture_toy(forward, conditions, parts[3])
    assert captured.call.paths == ("c.text[0]", "c.text[1]", "c.extra['late']", "x")
    flat = captured.call.flatten((conditions, parts[3]), {})
    assert all(left is right for left, right in zip(flat, parts, strict=True))
    other = Conditions([parts[1], parts[0]], 3.0, {"late": parts[3]})
    assert_same(run(captured, other, parts[2]), module(forward)(other, parts[2]))


def test_caches_named_tuples_enums_and_none_are_arguments() -> None:
    def forward(
        self: nn.Module, cache: Cache, pair: Pair, mode: Mode, mask: Tensor | None, sizes: tuple[int, int]
    ) -> Any:
        both = pair.left + pair.right if mode is Mode.ADD else pair.left - pair.right
        return (both * cache.keys[0] * cache.length).reshape(sizes) if mask is None else both

    x, y = x_and_other()
    captured = capture_toy(forward, Cache(x), Pair(x, y), Mode.SUB, None, (3, 2))
    assert_same(run(captured, Cache(y), Pair(y, x), Mode.SUB, None, (3, 2)), ((y - x) * y * 2).reshape(3, 2))
    with pytest.raises(InvalidArgumentError, match=r"'mode' is .*ADD.*captured with .*SUB"):
        run(captured, Cache(y), Pair(y, x), Mode.ADD, None, (3, 2))
    with pytest.raises(InvalidArgumentError, match=r"'cache.keys\[0\]' is a tensor float32\[5, 3\]"):
        captured.call.flatten((Cache(torch.ones(5, 3)), Pair(y, x), Mode.SUB, None, (3, 2)), {})


def test_args_and_kwargs_of_any_number_are_passed_on() -> None:
    def forward(self: nn.Module, *tensors: Tensor, factor: int = 1, **named: Tensor) -> Tensor:
        return sum(t * (i + 1) for i, t in enumerate(tensors)) * factor + named["last"] - named["first"]

    model, (x, y) = module(forward), x_and_other()
    captured = capture(model, (x, y, x * 2), {"last": y + 1, "factor": 3, "first": x + 1})
    late = x * 5
    expected = model(y, x, y + 2, first=y - 3, last=late, factor=3)
    assert_same(run(captured, y, x, y + 2, first=y - 3, last=late, factor=3), expected)


def test_positional_arguments_reach_wrappers_as_positional_ones() -> None:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return args[0] * (2 if "y" in kwargs else 3)

    model, (x, y) = module(forward), x_and_other()
    assert_same(run(capture(model, (x,), {"y": y}), y, y=x), y * 2)
    assert_same(run(capture(model, (x, y), {}), y, x), y * 3)


RESULTS = {
    "tensor": lambda x: x * 2,
    "tuple": lambda x: (x * 2,),
    "nested": lambda x: {"a": [x + 1, (x + 2, None)], "b": {"n": 7, "s": "text", "same": x}},
    "ordered dict": lambda x: OrderedDict([("z", x + 1), ("a", x + 2)]),
    "named tuple": lambda x: Pair(x + 1, True),
    "model output": lambda x: Transformer2DModelOutput(sample=x * 3),
    "model output with none": lambda x: BaseModelOutputWithPooling(last_hidden_state=x + 1, hidden_states=(x, x * 2)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_come_back_in_the_models_own_structure(name: str) -> None:
    make = RESULTS[name]

    def forward(self: nn.Module, x: Tensor) -> Any:
        return make(x)

    x, other = x_and_other()
    result, expected = run(capture_toy(forward, x), other), make(other)
    assert_same(result, expected)
    if name == "model output":
        assert_same(result.sample, other * 3)


def test_a_tensor_returned_twice_is_one_tensor_again() -> None:
    def forward(self: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = x * 2
        return y, [y, x]

    x, other = x_and_other()
    result = run(capture_toy(forward, x), other)
    assert result[0] is result[1][0]
    assert result[1][1] is other


def test_tied_weights_are_one_param() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).relu()

    model, (x, other) = Tied().eval(), x_and_other()
    captured = capture(model, (x,), {})
    assert len([name for name in captured.params if name.endswith("weight")]) == 1
    assert captured.params["first.weight"] is model.first.weight
    with torch.no_grad():
        assert_same(run(captured, other), model(other))


def test_constants_of_a_trace_have_unique_names_and_unused_weights_are_left_out() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([4.0, 5.0, 6.0]) * self.lifted_tensor_0

    members = {"lifted_tensor_0": nn.Parameter(torch.full((3,), 7.0)), "unused": nn.Linear(3, 3)}
    x, other = x_and_other()
    captured = capture_toy(forward, x, members=members)
    assert len(captured.params) == 3
    kinds = sorted(param.kind.value for param in captured.program.params.values())
    assert kinds == ["constant", "constant", "parameter"]
    expected = other * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([4.0, 5.0, 6.0]) * 7.0
    assert_same(run(captured, other), expected)


def test_an_input_that_is_not_used_still_has_its_place() -> None:
    def forward(self: nn.Module, unused: Tensor, x: Tensor) -> Tensor:
        return x * 2

    x, other = x_and_other()
    captured = capture_toy(forward, torch.ones(5), x)
    assert len(captured.program.input_nodes) == 2
    assert_same(run(captured, torch.zeros(5), other), other * 2)


def test_device_literals_become_the_programs_device() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        steps = torch.arange(3, device=x.device, dtype=torch.float32) + torch.ones(3, device="cpu", pin_memory=False)
        return (x + steps).to("cpu") + torch.zeros_like(x, device=torch.device("cpu")).to(device="cpu")

    x, other = x_and_other()
    captured = capture_toy(forward, x)
    found = [value for node in captured.program.nodes for value in (*node.args, *node.kwargs.values())]
    devices = [value for value in found if isinstance(value, torch.device)]
    assert len(devices) >= 3
    assert set(devices) == {ir.DEVICE}
    assert not any("pin_memory" in node.kwargs for node in captured.program.nodes)
    assert_same(run(captured, other), module(forward)(other))


def test_a_program_captured_on_meta_runs_on_cpu() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU()).eval()

    with torch.device("meta"):
        planned = capture(make(), (torch.ones(2, 3),), {})
    assert planned.report.verified == "not verified"
    real, x = make(), torch.randn(2, 3)
    with torch.no_grad():
        results = ir.interpreter.evaluate(planned.program, dict(real.named_parameters()), [x])
        assert_same(results[0], real(x))


SOURCE = """
import torch
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)
    def forward(self, x):
        x = self.inner(x)
        return helper(x)
def helper(x):
    return x.tanh()
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
    def forward(self, x):
        return self.block(x).exp()
"""


def test_a_class_from_an_interactive_namespace_is_captured_with_its_lines() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, "<cell 3>", "exec"), namespace)
    model = namespace["Model"]().eval()
    x, other = x_and_other()
    captured = capture(model, (x,), {})
    places = {str(node.target): ir.info(node).location for node in captured.program.nodes if node.op == "call_function"}
    assert places["aten.linear.default"] == ir.Location("block.inner", "<cell 3>", 8)
    assert places["aten.tanh.default"] == ir.Location("block", "<cell 3>", 11)
    assert places["aten.exp.default"] == ir.Location("", "<cell 3>", 17)
    with torch.no_grad():
        assert_same(run(captured, other), model(other))


def test_autocast_and_grad_regions_are_opened() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.layer(x)
            with torch.autocast("cpu", enabled=False):
                y = self.layer(y.float()) + y
        with torch.enable_grad():
            return y * 2

    members = {"layer": nn.Linear(3, 3)}
    x, other = x_and_other()
    captured = capture_toy(forward, x, members=members)
    assert targets(captured).count("aten.linear.default") == 2
    model = module(forward, **members)
    with torch.no_grad():
        assert_same(run(captured, other), model(other))


def test_random_ops_draw_the_same_numbers_as_eager() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        unused = torch.randn(4)
        return x + torch.rand_like(x) + torch.empty_like(x).normal_() + 0 * unused.shape[0]

    x, other = x_and_other()
    captured = capture_toy(forward, x)
    assert captured.report.verified == "bit-equal"
    model = module(forward)
    torch.manual_seed(5)
    expected = model(other)
    torch.manual_seed(5)
    assert_same(run(captured, other), expected)
