"""Writes in place: equal results without mutation where the model writes to its own values, refusal elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastvideo.frontends.capture import capture
from fastvideo_ir.errors import InvalidArgumentError

from .capturing import assert_same, assert_well_formed, capture_toy, module, run, targets

Tensor = torch.Tensor


def write_through_slice(self: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:3, ::2] = x[:, :2, ::2]
    return y


def write_through_chain_of_views(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    y.transpose(1, 2).unsqueeze(0)[0, :, 1].unflatten(-1, (2, 2)).select(-1, 1).mul_(3)
    return y, y.sum(-1)


def alias_is_read_after_base_was_written(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    view = y.permute(2, 0, 1)[1:]
    before = view * 1
    y.clamp_(min=0)
    return before, view * 2


def base_is_read_after_alias_was_written(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    first, second = y.chunk(2, dim=-1)
    second.zero_()
    first += 5
    return y, first + second


def write_through_pieces(self: nn.Module, x: Tensor) -> Tensor:
    y = x.clone()
    y.unbind(1)[3].copy_(x[:, 0])
    y.split([1, 3], dim=-1)[1].fill_(7)
    y.narrow(1, 1, 2).add_(1)
    y.movedim(0, 2).diagonal(0, 0, 1).neg_()
    return y


def written_value_is_broadcast_and_cast(self: nn.Module, x: Tensor) -> Tensor:
    y = x.to(torch.float16) * 1
    y.mul_(x.double())
    y[:, 0] = x[0, 0].double()
    return y


def write_through_complex_view(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.view_as_complex((x * 2).unflatten(-1, (-1, 2)))
    y.real.mul_(3)
    y.imag.add_(1)
    return torch.view_as_real(y), y.abs()


def masked_writes(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y, z = x * 1, x * 1
    y[x > 0] = 5.0
    z[(x > 0).any(-1)] = -1.0
    y.masked_fill_(x < -1, 2.0)
    return y, z


def index_and_scatter(self: nn.Module, x: Tensor) -> Tensor:
    y = x * 1
    y[:, torch.tensor([0, 2])] = x[:, torch.tensor([3, 1])]
    y.index_add_(1, torch.tensor([1, 1]), x[:, :2])
    y.scatter_(2, torch.zeros_like(x, dtype=torch.long)[..., :1], 9.0)
    return y


def out_argument(self: nn.Module, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.mul(x, 3, out=y)
    torch.add(y[:, 1:], x[:, 1:], out=y[:, :-1])
    return y


def write_through_data(self: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.data[:, 1:].copy_(x[:, 1:])
    return y


def overlapping_writes_in_order(self: nn.Module, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., 0::2] = x[..., 0::2] * 2
    y[..., 1::2] = x[..., 1::2] * 3
    y[..., 0] = 4
    y[:, 2:] = y[:, :-2]
    return y


def write_to_a_reshaped_copy_leaves_the_base(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 1
    copied, shared = y.transpose(0, 1).reshape(-1), y.reshape(-1)
    copied.add_(1)
    shared.mul_(2)
    return y, copied


def views_in_place(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = x * 1
    alias = y[1:]
    y.unsqueeze_(0).transpose_(1, 2)
    y.squeeze_(0)[2].add_(1)
    return y, alias, y.detach_() * alias.sum()


def views_of_what_was_computed_in_another_order(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.zeros(4, 4, 3)
    alias = y.view(-1)
    y.copy_(x.permute(2, 1, 0))
    return y.view(2, -1), y.view_as(x), alias * 2


FORWARDS = [
    write_through_slice, write_through_chain_of_views, alias_is_read_after_base_was_written,
    base_is_read_after_alias_was_written, write_through_pieces, written_value_is_broadcast_and_cast,
    write_through_complex_view, masked_writes, index_and_scatter, out_argument, write_through_data,
    overlapping_writes_in_order, views_in_place, write_to_a_reshaped_copy_leaves_the_base,
    views_of_what_was_computed_in_another_order,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_writes_to_own_values_become_functional_and_stay_bit_equal(forward: Callable[..., Any]) -> None:
    x, other = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    captured = capture_toy(forward, x)
    assert captured.report.strategy == "export"
    assert_well_formed(captured)
    expected, kept = module(forward)(other), other.clone()
    assert_same(run(captured, other), expected)
    assert torch.equal(other, kept)


def test_interleaved_slices_that_cover_an_empty_tensor_read_nothing_of_it() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[..., 0::2] = x[..., 1::2]
        out[..., 1::2] = -x[..., 0::2]
        return out

    names = targets(capture_toy(forward, torch.randn(3, 4, 4)))
    assert "aten.stack.default" in names
    assert not any("scatter" in name or "empty" in name for name in names)


def test_slices_that_leave_a_gap_keep_the_base() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        out = x * 1
        out[..., 0::3] = x[..., 1::3]
        out[..., 1::3] = 0
        return out

    x, other = torch.randn(2, 6), torch.randn(2, 6)
    captured = capture_toy(forward, x)
    assert any("slice_scatter" in name for name in targets(captured))
    assert_same(run(captured, other), module(forward)(other))


def writes_to_parameter(self: nn.Module, x: Tensor) -> Tensor:
    self.weight[0].add_(1)
    return x * self.weight


def writes_to_buffer(self: nn.Module, x: Tensor) -> Tensor:
    self.calls += 1
    return x * self.calls


def writes_to_view_of_input(self: nn.Module, states: Tensor) -> Tensor:
    states.flatten()[1:].mul_(2)
    return states + 1


def writes_to_parameter_data(self: nn.Module, x: Tensor) -> Tensor:
    self.weight.data.add_(1)
    return x * self.weight


def writes_to_plain_attribute(self: nn.Module, x: Tensor) -> Tensor:
    self.table.mul_(2)
    return x * self.table


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (writes_to_parameter, "parameter 'weight'"),
        (writes_to_parameter_data, "parameter 'weight'"),
        (writes_to_buffer, "buffer 'calls'"),
        (writes_to_view_of_input, "argument 'states'"),
        (writes_to_plain_attribute, "constant 'table'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_side_effect_on_what_outlives_the_call_is_refused_by_name(forward: Callable[..., Any], named: str) -> None:
    model = module(forward, weight=nn.Parameter(torch.ones(2, 3)), table=torch.ones(2, 3))
    model.register_buffer("calls", torch.zeros(()))
    x = torch.randn(2, 3)
    before = x.clone(), model.weight.clone(), model.calls.clone(), model.table.clone()
    with pytest.raises(InvalidArgumentError, match=named) as caught:
        capture(model, (x,), {})
    assert "in place" in str(caught.value)
    assert "test_capture_mutation.py" in str(caught.value)
    for tensor, old in zip((x, model.weight, model.calls, model.table), before, strict=True):
        assert torch.equal(tensor, old)
