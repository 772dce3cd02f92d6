"""Asked wrongly, capture says what is wrong in one line, and it leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastvideo.frontends.capture import capture
from fastvideo_ir.errors import CaptureError, InvalidArgumentError

from .capturing import assert_same, capture_toy, module, run

Tensor = torch.Tensor


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()


def refusal(model: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        capture(model, args, kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_mode_is_refused_for_the_model_and_for_a_part_of_it() -> None:
    model = linear().train()
    assert "Sequential is in training mode (call model.eval() first)" in refusal(model, torch.ones(2, 3))
    model.eval()
    model[1].train()
    assert "its module '1' is in training mode" in refusal(model, torch.ones(2, 3))


def test_what_is_no_module_is_refused() -> None:
    assert "expected a torch.nn.Module, got a function" in refusal(lambda x: x, torch.ones(2))


def test_a_model_on_two_devices_is_refused() -> None:
    model = linear()
    model.register_buffer("far", torch.ones(3, device="meta"))
    assert "several devices (cpu, meta)" in refusal(model, torch.ones(2, 3))


def test_inputs_that_require_grad_are_refused_and_parameters_that_do_are_fine() -> None:
    model = linear()
    assert "argument 'input' requires grad" in refusal(model, torch.ones(2, 3, requires_grad=True))
    captured = capture(model, (torch.ones(2, 3),), {})
    assert captured.report.verified == "bit-equal"
    with pytest.raises(InvalidArgumentError, match="argument 'input' requires grad"):
        captured.call.flatten((torch.ones(2, 3, requires_grad=True),), {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1, 2}, "argument 'x[1].deep' is a builtins.set"),
        (torch.Generator(), "argument 'x[1].deep' is a torch._C.Generator"),
        (nn.Linear(1, 1), "argument 'x[1].deep' is a torch.nn.modules.linear.Linear"),
        (torch.ones(2).to_sparse(), "argument 'x[1].deep' has layout torch.sparse_coo"),
        (lambda: None, "argument 'x[1].deep' is a builtins.function"),
    ],
    ids=["set", "generator", "module", "sparse", "function"],
)
def test_arguments_that_cannot_be_part_of_a_program_are_named_by_their_path(value: Any, text: str) -> None:
    class Holder:
        def __init__(self) -> None:
            self.deep = value

    def forward(self: nn.Module, x: Any) -> Tensor:
        return x[0]

    assert text in refusal(module(forward), [torch.ones(2), Holder()])


def test_a_container_that_holds_itself_is_refused() -> None:
    loop: list[Any] = [torch.ones(2)]
    loop.append(loop)

    def forward(self: nn.Module, x: Any) -> Tensor:
        return x[0]

    assert "argument 'x[1]' contains itself" in refusal(module(forward), loop)


def test_arguments_that_do_not_fit_forward_are_refused_with_its_signature() -> None:
    def forward(self: nn.Module, x: Tensor, *, scale: float) -> Tensor:
        return x * scale

    text = refusal(module(forward), torch.ones(2))
    assert "forward(x: 'Tensor', *, scale: 'float')" in text
    assert "missing a required" in text


def test_a_call_of_another_shape_names_the_argument() -> None:
    def forward(self: nn.Module, states: list[Tensor], scale: float = 1.0) -> Tensor:
        return states[0] * scale + states[1]

    captured = capture_toy(forward, [torch.ones(2, 3), torch.ones(2, 3)])
    with pytest.raises(InvalidArgumentError) as caught:
        captured.call.flatten(([torch.ones(2, 3), torch.ones(1, 3)],), {})
    assert str(caught.value) == (
        "argument 'states[1]' is a tensor float32[1, 3]; the program was captured with a tensor float32[2, 3]"
    )
    with pytest.raises(InvalidArgumentError, match=r"argument 'scale' is 2\.0; the program was captured with 1\.0"):
        captured.call.flatten(([torch.ones(2, 3), torch.ones(2, 3)], 2.0), {})
    with pytest.raises(InvalidArgumentError, match=r"argument 'states\[2\]' was not there"):
        captured.call.flatten(([torch.ones(2, 3)] * 2 + [torch.ones(1)],), {})


def test_a_model_that_changes_its_arguments_container_is_refused() -> None:
    def forward(self: nn.Module, x: Tensor, seen: list[Tensor]) -> Tensor:
        seen.append(x)
        return x * 2

    seen: list[Tensor] = []
    assert "changes the containers that it is called with" in refusal(module(forward), torch.ones(2), seen)
    assert seen == []


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    def forward(self: nn.Module, x: Tensor) -> int:
        return x.shape[0]

    assert "returned no tensor" in refusal(module(forward), torch.ones(2))


def test_assigning_to_data_is_refused() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 1
        y.data = x * 3
        return y

    assert "assigns to `.data`" in refusal(module(forward), torch.ones(2))


def test_a_torch_compiled_model_is_captured_as_what_it_wraps() -> None:
    model = linear()
    captured = capture(torch.compile(model), (torch.ones(2, 3),), {})
    assert captured.params["0.weight"] is model[0].weight


def test_a_capture_under_the_callers_autocast_is_refused() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "under torch.autocast" in refusal(linear(), torch.ones(2, 3))


def test_reading_memory_by_strides_is_refused_with_its_line() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return (x * 2).as_strided((2, 2), (1, 3))

    with pytest.raises(CaptureError, match=r"as_strided.* at .*test_capture_refusals.py:\d+ depends on how"):
        capture_toy(forward, torch.ones(2, 3))


def test_inference_tensors_and_inference_mode_are_fine() -> None:
    with torch.inference_mode():
        model, x = linear(), torch.randn(2, 3)
        captured = capture(model, (x,), {})
        assert captured.report.verified == "bit-equal"
        assert_same(run(captured, x * 2), model(x * 2))


def test_a_failed_capture_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x * 2 if (x * self.weight).sum() > 0 else x

    with pytest.raises(Exception, match="cannot be captured"):
        capture(module(forward, weight=nn.Parameter(torch.ones(3))), (torch.ones(2, 3),), {})
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
