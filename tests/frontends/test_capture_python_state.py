"""What a model keeps in Python, and shortcuts that eager mode alone takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastvideo
from fastvideo.frontends.capture import capture
from fastvideo.frontends.capture.python_state import FrozenStateWarning
from fastvideo_ir.errors import InvalidArgumentError

from .capturing import run


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.linear = 0, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_attribute_that_changes_is_warned_of_by_name_and_put_back() -> None:
    model = Counting().eval()
    with pytest.warns(FrozenStateWarning, match=r"Counting changes calls while it runs; a compiled model has no side"):
        capture(model, (torch.randn(3, 4),), {})
    assert model.calls == 0


class Averaging(nn.Module):
    """Mixes its result with that of the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        now = self.linear(x)
        result: Tensor = now if self.last is None else (now + self.last) / 2
        self.last = result * 1.5
        return result


class Skipping(nn.Module):
    """Leaves its layer out at every second call, and remembers calls in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(self.calls))
        return self.linear(x) if len(self.calls) % 2 else x * 2


@pytest.mark.parametrize(("kind", "name"), [(Averaging, "last"), (Skipping, "calls")])
def test_model_whose_result_depends_on_the_call_before_is_refused(kind: type[nn.Module], name: str) -> None:
    model = kind().eval()
    with pytest.raises(InvalidArgumentError) as caught:
        capture(model, (torch.randn(3, 4),), {})
    assert f"{kind.__name__} remembers {name} from call to call" in str(caught.value)
    assert model.last is None if kind is Averaging else model.calls == [0]


class Recording(nn.Module):
    """Installs a hook at its first call, notes that it has, and returns what the hook has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.is_hooked = nn.Linear(4, 4), False
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.is_hooked:
            self.linear.register_forward_hook(lambda module, args, output: self.seen.append(output))
            self.is_hooked = True
        self.seen.clear()
        return self.linear(x) * 2, *self.seen


def test_hooks_that_a_model_installs_once_are_not_installed_again() -> None:
    model = Recording().eval()
    captured = capture(model, (torch.randn(3, 4),), {})
    assert captured.report.strategy == "export"
    assert not model.is_hooked and not model.linear._forward_hooks
    x = torch.randn(3, 4)
    doubled, seen = run(captured, x)
    assert torch.equal(seen, model.linear(x)) and torch.equal(doubled, seen * 2)


class Hooking(nn.Module):
    """Installs one more hook at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.linear.register_forward_hook(lambda module, args, output: output * 2)
        result: Tensor = self.linear(x)
        return result


def test_model_that_adds_a_hook_at_every_call_is_refused() -> None:
    model = Hooking().eval()
    with pytest.raises(InvalidArgumentError, match=r"Hooking remembers linear\._forward_hooks from call to call"):
        capture(model, (torch.randn(3, 4),), {})
    assert not model.linear._forward_hooks


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
    ids=["weight-hook", "weight-parametrization", "spectral-hook", "spectral-parametrization"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weight_that_a_hook_sets_anew_may_be_set_by_eager_calls_too(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 4))).eval()
    with fastvideo.compile(model, device="cpu") as compiled, torch.no_grad():
        for seed in range(2):
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(compiled(x), model(x))
        model[0].bias.add_(1)
        with pytest.raises(InvalidArgumentError, match="weights have changed"):
            compiled(x)


def test_attention_kernels_of_the_models_choice_do_not_count_against_a_capture() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                return nn.functional.scaled_dot_product_attention(x, x, x)

    captured = capture(Model().eval(), (torch.randn(2, 4, 61, 16),), {})
    assert captured.report.strategy == "export"
    assert captured.report.verified.startswith("bit-equal")


def test_model_that_keeps_still_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    capture(nn.Linear(4, 4).eval(), (torch.randn(3, 4),), {})
    assert not [warning for warning in recwarn if issubclass(warning.category, FrozenStateWarning)]


@pytest.mark.parametrize("name", ["attention", "layer"])
def test_torch_attention_modules_are_captured_as_they_are_written(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            if name == "layer":
                return self.layer(x)
            attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return attended

    captured = capture(Model().eval(), (torch.randn(2, 53, 32),), {})
    assert captured.report.verified == "bit-equal"
    targets = {str(node.target) for node in captured.program.nodes}
    assert "aten.scaled_dot_product_attention.default" in targets and not any("encoder_layer" in t for t in targets)
    assert torch.backends.mha.get_fastpath_enabled()
