"""Models that read tensor values: guarded where inputs alone decide, refused where activations do, never wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastvideo
from fastvideo.frontends.capture import capture
from fastvideo.frontends.capture import driver as capture_driver
from fastvideo_ir.errors import CaptureError, InvalidArgumentError

from .capturing import assert_same, assert_well_formed, capture_toy, module, run

Tensor = torch.Tensor
LAYER = {"layer": nn.Linear(4, 4)}


def branches(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    y = self.layer(x)
    return y * 2 if mask.all() else y - 1


def cuts_at_item(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return self.layer(x)[:, : int(mask.sum(1).max())]


def cuts_at_tolist(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([self.layer(x[i, :n]) for i, n in enumerate(mask.sum(1).tolist())])


def reads_numpy(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return self.layer(x) * float(np.asarray(mask.sum(1))[0])


def compares(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    if torch.equal(mask[0], mask[1]) or torch.allclose(mask[0].float(), torch.zeros(5)):
        return self.layer(x)
    return x


def indexes_with_mask(self: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return self.layer(x)[mask], x[:, mask[0].nonzero()[:, 0]]


def writes_with_mask(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    y = x * 1
    y[mask] = self.layer(x)[mask] + 1
    return y


def repeats(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return torch.repeat_interleave(self.layer(x), mask[0].long() + 1, dim=1)


def repeats_flat_and_selects(self: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    y = self.layer(x)
    return torch.repeat_interleave(y[:, 0, 0], mask.sum(1)), y.masked_select(mask[..., None])


def encodes_classes(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(mask.sum(1)).to(x.dtype).sum(0) * self.layer(x).sum()


def splits_at(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return torch.tensor_split(self.layer(x), mask[0].sum().reshape(1), dim=1)[0]


def counts_as_index(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    total = sum((self.layer(x) for _ in range(mask[0].sum())), torch.zeros_like(x))
    return total[:, [4, 3, 2, 1, 0][min(mask[0].sum(), 4) :]] * (1 in mask[0, 3:])


READERS = [
    encodes_classes, splits_at, counts_as_index,
    branches, cuts_at_item, cuts_at_tolist, reads_numpy, compares, indexes_with_mask, writes_with_mask, repeats,
    repeats_flat_and_selects,
]  # fmt: skip


@pytest.mark.parametrize("forward", READERS, ids=lambda forward: forward.__name__)
def test_a_value_of_inputs_becomes_a_guard_that_notices_every_change(forward: Callable[..., Any]) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    x, other = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    captured = capture_toy(forward, x, mask, members=LAYER)
    model = module(forward, **LAYER)
    assert captured.report.verified == "bit-equal"
    assert_well_formed(captured)
    assert captured.guards is not None
    assert captured.guards.changed(captured.params, [other, mask]) is None
    with torch.no_grad():
        assert_same(run(captured, other, mask), model(other, mask))
    for changed in (torch.ones_like(mask), torch.zeros_like(mask)):
        with torch.no_grad():
            expected = model(x, changed)
        index = captured.guards.changed(captured.params, [x, changed])
        if index is None:  # then the value that was read is the same, and the program holds
            assert_same(run(captured, x, changed), expected)
        else:
            assert "test_capture_values.py" in captured.guards.describe(index)
    assert captured.guards.changed(captured.params, [x, torch.ones_like(mask)]) is not None


def test_masked_models_need_no_guard_where_the_mask_stays_in_the_graph() -> None:
    def forward(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x).masked_fill(~mask[..., None], -1.0).softmax(1)

    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    x = torch.randn(2, 5, 4)
    captured = capture_toy(forward, x, mask, members=LAYER)
    assert captured.guards is None
    with torch.no_grad():
        assert_same(run(captured, x, ~mask), module(forward, **LAYER)(x, ~mask))


def cuts_and_doubles(self: nn.Module, x: Tensor, sizes: Tensor) -> Tensor:
    y = self.layer(x)[: int(sizes[0])]  # the line
    return y * 2 if sizes[1] > 0 else y if sizes[2] > 0 else -y


def test_a_guard_that_changes_captures_again_and_one_that_changes_too_often_is_named() -> None:
    model, x = module(cuts_and_doubles, **LAYER), torch.randn(6, 4)
    with fastvideo.compile(model, device="cpu") as compiled, torch.no_grad():
        for sizes in [
            (1, 0, 0),
            (2, 0, 0),
            (2, 1, 0),
            (2, 0, 1),
            (3, 1, 0),
            (1, 0, 0),
            (4, 0, 1),
            (2, 1, 0),
            (5, 0, 0),
        ]:
            assert_same(compiled(x, torch.tensor(sizes)), model(x, torch.tensor(sizes)))
        assert len(compiled.programs) == 7, "what was captured once is not captured again"
        lines, first = inspect.getsourcelines(cuts_and_doubles)
        line = first + next(number for number, text in enumerate(lines) if "# the line" in text)
        with pytest.raises(CaptureError) as caught:
            compiled(x, torch.tensor([6, 0, 0]))
        found = "the model was captured for 4 values of one guard, and now it has another: __int__ in . at "
        assert str(caught.value).startswith(f"{found}{__file__}:{line} (")
        assert_same(compiled(x, torch.tensor([3, 1, 0])), model(x, torch.tensor([3, 1, 0])))


def test_an_input_that_is_written_to_between_calls_is_noticed() -> None:
    def forward(self: nn.Module, x: Tensor, sizes: Tensor) -> Tensor:
        return torch.cat([piece.flip(0) for piece in self.layer(x).split(sizes.tolist())])

    model, x, sizes = module(forward, **LAYER), torch.randn(6, 4), torch.tensor([2, 4])
    with fastvideo.compile(model, device="cpu") as compiled, torch.no_grad():
        for value in (2, 5, 2):
            sizes.copy_(torch.tensor([value, 6 - value]))
            assert_same(compiled(x, sizes), model(x, sizes))
        assert len(compiled.programs) == 2


def test_a_value_of_weights_alone_is_a_guard_that_follows_their_update() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale.item() if self.scale > 0 else x

    model = module(forward, scale=nn.Parameter(torch.tensor(2.0)), **LAYER)
    x = torch.randn(2, 5, 4)
    with fastvideo.compile(model, device="cpu") as compiled, torch.no_grad():
        for value in (2.0, -1.0, 3.0, 2.0):
            model.scale.fill_(value)
            if compiled.programs:
                compiled.update_weights()
            assert_same(compiled(x), model(x))
        assert len(compiled.programs) == 3


def branches_on_activations(self: nn.Module, x: Tensor) -> Tensor:
    y = self.layer(x)
    if y.sum() > 0:  # the line
        y = y * 2
    return y


def counts_activations(self: nn.Module, x: Tensor) -> Tensor:
    counts = (self.layer(x) > 0).sum((0, 1)).tolist()  # the line
    return x * counts[0]


def selects_activations(self: nn.Module, x: Tensor) -> Tensor:
    y = self.layer(x)
    return y[y > 0]  # the line


def reads_random_numbers(self: nn.Module, x: Tensor) -> Tensor:
    return self.layer(x) * torch.rand(()).item()  # the line


@pytest.mark.parametrize(
    "forward",
    [branches_on_activations, counts_activations, selects_activations, reads_random_numbers],
    ids=lambda forward: forward.__name__,
)
def test_a_value_of_activations_is_refused_with_its_line(forward: Callable[..., Any]) -> None:
    lines, first = inspect.getsourcelines(forward)
    line = first + next(index for index, text in enumerate(lines) if "# the line" in text)
    with pytest.raises(CaptureError) as caught:
        capture_toy(forward, torch.randn(2, 5, 4), members=LAYER)
    text = str(caught.value)
    assert f"test_capture_values.py:{line}" in text
    for strategy in ("export", "real-values", "dynamo"):
        assert strategy in text
    assert "it can change at every call" in text


def test_memory_that_cannot_be_watched_is_refused() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return torch.from_dlpack(x.__dlpack__()) * 2

    with pytest.raises(InvalidArgumentError, match="__dlpack__"):
        capture_toy(forward, torch.randn(2, 3))


def test_a_strategy_that_is_silently_wrong_is_caught_on_the_second_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that burns in a value of the first input is equal to eager on that input alone."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x * x.abs().max()

    honest = capture_driver.STRATEGIES[0][1]

    def burning(model: nn.Module, call: Any, stay_eager: Any) -> Any:
        trace = honest(model, call, stay_eager)
        scale = next(node for node in trace.graph.nodes if "max" in node.name)
        value = float(call.tensors[0].abs().max())
        for node in list(scale.users):
            node.args = tuple(value if argument is scale else argument for argument in node.args)
        return trace

    x = torch.randn(3, 4)
    monkeypatch.setattr(capture_driver, "STRATEGIES", (("burning", burning), ("export", honest)))
    captured = capture(module(forward), (x,), {})
    assert [attempt.strategy for attempt in captured.report.attempts] == ["burning", "export"]
    assert "on the second input result 0 differs" in captured.report.attempts[0].outcome
    monkeypatch.setattr(capture_driver, "STRATEGIES", (("burning", burning),))
    with pytest.raises(CaptureError, match="on the second input result 0 differs in 12 of 12 elements"):
        capture(module(forward), (x,), {})
    # Without verification it would have passed.
    assert capture(module(forward), (x,), {}, verify=False).report.verified == "not verified"


def test_eager_that_does_not_repeat_itself_is_reported() -> None:
    noise = iter(range(1, 1000))

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        return y if torch.compiler.is_exporting() else y * (1 + 1e-6 * next(noise))

    captured = capture_toy(forward, torch.randn(3, 4))
    assert captured.report.verified.startswith("eager does not repeat itself (max diff ")


def test_eager_that_cannot_take_other_values_is_reported() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and x.flatten()[0] != 1.5:
            raise ValueError("only 1.5")
        return x * 2

    x = torch.randn(3, 4)
    x[0, 0] = 1.5
    captured = capture_toy(forward, x)
    assert captured.report.verified == "bit-equal; eager itself raised on other values (ValueError: only 1.5)"


def test_what_the_model_itself_raises_reaches_the_caller() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] != 4:
            raise ValueError("the batch must be 4")
        return x

    with pytest.raises(ValueError, match=r"^the batch must be 4$"):
        capture_toy(forward, torch.randn(3, 4))
