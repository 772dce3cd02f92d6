"""Blocks that would record what an earlier one has recorded are not traced; whatever makes them differ is seen."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastvideo.frontends.capture import Captured, capture
from fastvideo.frontends.capture import twins as capture_twins
from fastvideo.frontends.capture.export import trace_with_export
from fastvideo.frontends.capture.signature import bind

WIDTH = 8
NOW: dict[str, Any] = {"block": 0, "stash": []}
"""What code of models reads next to its own attributes."""


class Block(nn.Module):
    """Attention-less: a norm, two linear layers, and whatever a test adds."""

    def __init__(self, body: Callable[[Block, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("table", torch.randn(WIDTH))
        self.scale = 1.0
        self._body = body

    def forward(self, x: Tensor, table: Tensor) -> Any:
        return self._body(self, x, table)


class Model(nn.Module):
    """Four blocks in a row."""

    def __init__(self, body: Callable[[Block, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(body) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1]).to(x.dtype)[:, None].expand(-1, WIDTH).cos()
        for number, block in enumerate(self.blocks):
            NOW["block"] = number
            NOW["stash"].append(x)
            made = block(x, positions)
            x = made if isinstance(made, Tensor) else torch.cat(made, 1).mul_(2)
        NOW["block"] = 0
        NOW["stash"].clear()
        return x


def _plain(block: Block, x: Tensor, table: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[..., ::2] = block.second(block.first(x).relu() + table)[..., ::2] * block.scale
    out[..., 1::2] = x[..., 1::2] + block.table[1::2]
    return out


def _writes(block: Block, x: Tensor, table: Tensor) -> Tensor:
    own = block.first(x)
    return block.second(own.add_(table))


def _slices(block: Block, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    whole = block.first(x) + table
    return whole[:, :2], whole[:, 2:]


def _autocast(block: Block, x: Tensor, table: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        made = block.first(x)
    return block.second(made.to(x.dtype)) + table


def _global(block: Block, x: Tensor, table: Tensor) -> Tensor:
    return block.first(x) * (NOW["block"] + 1)


def _stash(block: Block, x: Tensor, table: Tensor) -> Tensor:
    return block.first(x) + NOW["stash"][0]


def _counts(block: Block, x: Tensor, table: Tensor) -> Tensor:
    block.scale += 1
    return block.first(x)


@functools.lru_cache
def _angles(count: int) -> Tensor:
    return torch.arange(count).to(torch.float32)[:, None].sin()


def _memo(block: Block, x: Tensor, table: Tensor) -> Tensor:
    return block.first(x) + _angles(x.shape[1])


def _returns_argument(block: Block, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], block.first(x)[:, 2:]


def _writes_argument(block: Block, x: Tensor, table: Tensor) -> Tensor:
    made = block.first(x)
    table.mul_(2)
    return made + table


def _by_size(block: Block, x: Tensor, table: Tensor) -> Tensor:
    return block.first(x) if x.shape[1] > 4 else block.second(x) * 2


def _model(body: Callable[[Block, Tensor, Tensor], Any]) -> Model:
    torch.manual_seed(0)
    return Model(body).eval()


def _tokens(count: int = 5) -> Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(1))


def _not_traced(model: nn.Module, *args: Any) -> list[str]:
    call = bind(inspect.signature(model.forward), "Model", args, {})
    with torch.no_grad():
        return [twin.path for twin in trace_with_export(model, call, {}).twins.values()]


def _lines(captured: Captured) -> list[Any]:
    """The program without its names: every node by what it computes of which nodes, and where it is written."""
    numbers = {node: number for number, node in enumerate(captured.program.nodes)}
    sources = {node: captured.program.params[node.name].source for node in captured.program.param_nodes}
    return [
        (
            sources.get(node, str(node.target) if node.op == "call_function" else node.op),
            str(torch.fx.node.map_arg((node.args, node.kwargs), lambda used: f"%{numbers[used]}")),
            str(node.meta["fv"].type),
            str(node.meta["fv"].location),
        )
        for node in captured.program.nodes
    ]


@pytest.mark.parametrize("body", [_plain, _writes, _slices, _autocast, _writes_argument, _by_size])
def test_twins_are_not_traced_and_the_program_is_the_same(
    body: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(body)
    if body is _writes_argument:
        model.forward = lambda x: _own_tables(model, x)  # type: ignore[method-assign]
    assert _not_traced(model, _tokens())[-2:] == ["blocks.2", "blocks.3"]
    once = capture(model, (_tokens(),), {})
    monkeypatch.setattr(capture_twins, "FEWEST", 99)
    in_full = capture(model, (_tokens(),), {})
    assert once.report.verified == in_full.report.verified == "bit-equal"
    assert _lines(once) == _lines(in_full)
    assert {source for source in once.params if "blocks.3.first" in source}


def _own_tables(model: Model, x: Tensor) -> Tensor:
    for block in model.blocks:
        x = block(x, torch.ones_like(x))
    return x


@pytest.mark.parametrize("body", [_global, _stash, _counts, _memo, _returns_argument])
def test_blocks_that_follow_something_else_are_traced_each(body: Callable[..., Any]) -> None:
    model = _model(body)
    assert not _not_traced(model, _tokens())
    with pytest.warns(match="scale") if body is _counts else nullcontext():
        captured = capture(model, (_tokens(),), {})
    assert captured.report.verified == "bit-equal"


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block, "scale", 2.0),
        lambda block: block.first.register_forward_hook(lambda module, args, result: result * 3),
        lambda block: setattr(block.second, "forward", lambda x: x),
        lambda block: setattr(block, "second", nn.Linear(WIDTH, WIDTH, bias=False).eval()),
    ],
    ids=["attribute", "hook", "forward", "weights"],
)
def test_a_block_that_differs_is_traced(change: Callable[[Block], Any]) -> None:
    model = _model(_plain)
    change(model.blocks[2])
    assert _not_traced(model, _tokens()) == ["blocks.1", "blocks.3"]
    assert capture(model, (_tokens(),), {}).report.verified == "bit-equal"


def test_what_digests_do_not_see_is_found_by_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(_plain)
    model.blocks[2].scale = 2.0
    monkeypatch.setattr(capture_twins, "fingerprint_while_traced", lambda module: "all the same")
    assert _not_traced(model, _tokens()) == ["blocks.1", "blocks.2", "blocks.3"]
    captured = capture(model, (_tokens(),), {})
    assert captured.report.verified == "bit-equal"
    scales = [value for node in captured.program.nodes for value in node.args if type(value) is float]
    assert scales == [1.0, 1.0, 2.0, 1.0]


def test_another_size_takes_its_own_branch_and_its_own_tables() -> None:
    model = _model(_by_size)
    long, short = (capture(model, (_tokens(count),), {}) for count in (5, 4))
    assert sum("second" in source for source in long.params) == 0
    assert sum("second" in source for source in short.params) == 8
    assert short.report.verified == "bit-equal"
