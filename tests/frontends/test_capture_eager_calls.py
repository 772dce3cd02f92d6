"""Modules that stay Python: the smallest call that can, and refused where that is the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured, capture
from fastvideo_ir.errors import CaptureError, EagerCallError

from . import routing
from .capturing import assert_same, assert_well_formed, run

pytestmark = pytest.mark.filterwarnings("ignore::fastvideo.frontends.capture.eager_calls.EagerCallWarning")


class Child(nn.Module):
    """``forward`` reads an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.context: Any = None

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return y * 2 if y.sum() > 0 else y - 1


class ReturnsRows(Child):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y[y[:, 0] > 0]


class ReturnsNumber(Child):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        y = self.linear(x)
        return y, int((y > 0).sum())


class WritesToArgument(Child):
    def forward(self, x: Tensor) -> Tensor:
        if self.linear(x).sum() > 0:
            x.mul_(2)
        return self.linear(x)


class AppendsToList(Child):
    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        y = super().forward(x)
        seen.append(y)
        return y


class ReadsWhatItsParentHasSet(Child):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.context


class Parent(nn.Module):
    def __init__(self, child: Child) -> None:
        super().__init__()
        self.child, self.out = child, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.5
        match self.child:
            case ReturnsRows():
                return y + self.child(y).sum(0)
            case ReturnsNumber():
                z, count = self.child(y)
                return z * count
            case AppendsToList():
                seen: list[Tensor] = []
                return self.child(y, seen) + seen[0]
            case ReadsWhatItsParentHasSet():
                self.child.context = y.sum()
                return self.child(y)
        return self.out(self.child(y) + y)


class Model(nn.Module):
    def __init__(self, child: Child) -> None:
        super().__init__()
        self.first, self.parent, self.last = nn.Linear(4, 4), Parent(child), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.parent(self.first(x)))


def eager_modules(captured: Captured) -> list[str]:
    """Of the nodes, which must be those of the report."""
    nodes = [node for node in captured.program.nodes if node.target is ir.dialect.eager_call]
    assert {ir.info(node).location.module for node in nodes} == {call.path for call in captured.report.eager_calls}
    return [str(node.args[1]) for node in nodes]


def captured_model(child: Child) -> tuple[nn.Module, Captured]:
    torch.manual_seed(1)
    model = Model(child).eval()
    captured = capture(model, (torch.randn(6, 4),), {})
    assert captured.report.verified == "bit-equal"
    assert captured.report.strategy == "real-values"
    assert captured.guards is None
    ir.verify(captured.program)
    return model, captured


def assert_follows(model: nn.Module, captured: Captured) -> None:
    """Both branches are taken by some of these inputs."""
    for seed in range(6):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) * 4
        with torch.no_grad():
            assert_same(run(captured, x), model(x))


def test_the_module_that_reads_stays_python_and_nothing_around_it() -> None:
    torch.manual_seed(0)
    model, captured = captured_model(Child())
    assert eager_modules(captured) == ["parent.child"]
    assert {"first.weight", "parent.out.weight", "last.weight"} <= set(captured.params)
    assert "parent.child.linear.weight" not in captured.params
    assert_follows(model, captured)


@pytest.mark.filterwarnings("ignore::fastvideo.frontends.capture.python_state.FrozenStateWarning")
@pytest.mark.parametrize(
    ("child", "why"),
    [
        (ReturnsRows, "'parent.child' alone cannot, since it returned (f32["),
        (ReturnsNumber, "'parent.child' alone cannot, since it returned "),
        (WritesToArgument, "'parent.child' alone cannot, since it changed its arguments"),
        (AppendsToList, "'parent.child' alone cannot, since it changed its arguments"),
        (ReadsWhatItsParentHasSet, "'parent.child' alone cannot, since it does not give what it gave"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_module_that_cannot_stand_alone_gives_way_to_the_one_around_it(child: type[Child], why: str) -> None:
    torch.manual_seed(0)
    model, captured = captured_model(child())
    assert eager_modules(captured) == ["parent"]
    assert why in captured.report.eager_calls[0].reason.inner
    assert_follows(model, captured)


def test_the_whole_model_is_refused() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(ReturnsRows().eval(), (torch.randn(6, 4),), {})
    assert "the smallest module call around it that could stay Python is the whole model" in str(caught.value)
    assert "move the code into a module of its own" in str(caught.value)


def test_shapes_that_change_later_are_an_error_and_no_wrong_answer() -> None:
    class Sometimes(Child):
        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            return y[:3] if y.abs().max() > 1000 else y

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Sometimes()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).sum(0)

    captured = capture(Around().eval(), (torch.randn(6, 4),), {})
    assert eager_modules(captured) == ["inner"]
    with pytest.raises(EagerCallError) as error:
        run(captured, torch.randn(6, 4) * 1e6)
    assert str(error.value).startswith(
        "module 'inner', which stays Python, returned (f32[3, 4]) in place of (f32[6, 4]) ("
    )


def test_arguments_and_results_of_any_structure() -> None:
    class Many(Child):
        def forward(self, pair: dict[str, Any], *, scale: float, mask: Tensor | None = None) -> Any:
            y = self.linear(pair["x"]) * scale
            rows = (y[:, 0] > 0).nonzero()[:, 0]
            return {"all": [y, y.index_add(0, rows, y[rows])], "none": mask, "count": (y > 0).sum()}

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Many()

        def forward(self, x: Tensor) -> Any:
            first = self.inner({"x": x, "name": "a"}, scale=2.0)
            second = self.inner({"x": first["all"][1], "name": "b"}, scale=0.5)
            return first["all"][0], second["all"][1] + second["count"]

    model = Around().eval()
    captured = capture(model, (torch.randn(6, 4),), {})
    assert eager_modules(captured) == ["inner", "inner@1"]
    assert_well_formed(captured)
    assert_follows(model, captured)


def test_the_models_autocast_reaches_python() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = Child(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.inner(x)
            assert y.dtype == torch.bfloat16
            return self.out(y.float())

    model = Around().eval()
    captured = capture(model, (torch.randn(6, 4),), {})
    assert eager_modules(captured) == ["inner"]
    assert_follows(model, captured)


def test_random_numbers_in_python_are_drawn_in_their_turn() -> None:
    class Draws(Child):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.rand(()).item()

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Draws()

        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x) + self.inner(x) + torch.rand_like(x)

    model, x = Around().eval(), torch.randn(6, 4)
    captured = capture(model, (x,), {})
    assert eager_modules(captured) == ["inner"]
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert_same(run(captured, x), expected)


def test_equal_blocks_stay_equal_though_each_calls_its_own_python() -> None:
    from fastvideo_ir.repeats import find_repeats

    captured = capture(routing.model(depth=4), (routing.tokens(0),), {})
    calls = [n for n in captured.program.nodes if n.op == "call_function" and "getitem" not in str(n.target)]
    repeats = find_repeats(captured.program, calls)
    assert [repeat.count for repeat in repeats] == [4]
