"""A rank's program as blocks: the same numbers, and the same code for what repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured, capture
from fastvideo.passes.localize import localize
from fastvideo.passes.outline_blocks import OutlineBlocks
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo_ir.block import Block
from fastvideo_ir.errors import UnknownNameError
from fastvideo_ir.interpreter import Alone, run_lockstep, run_rank


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.entry, self.layers = nn.Linear(8, 32), nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for layer in self.layers:
            x = layer(x)
        return x


def planned(layers: int, ranks: int) -> tuple[Captured, ir.Program, Tensor, Tensor]:
    model, x = Stack(layers).eval(), torch.randn(1, 24, 8)
    captured = capture(model, (x,), {})
    if ranks > 1:
        captured.program.mesh = ir.Mesh((("sp", ranks),))
    ir.run_passes(captured.program, default_pipeline(Target(ranks)))
    with torch.no_grad():
        return captured, captured.program, x, model(x)


class Read(Stack):
    """Every layer reads a projection of a text."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self.texts = nn.ModuleList(nn.Linear(16, 32) for _ in range(layers))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        x = self.entry(x)
        for layer, project in zip(self.layers, self.texts, strict=True):
            x = layer(x * project(text).sigmoid().mean(1, keepdim=True))
        return x


def blocks_of(program: ir.Program) -> list[Block]:
    return [node.target for node in program.nodes if isinstance(node.target, Block)]


@pytest.mark.parametrize("layers", [5, 9])
def test_layers_that_repeat_share_one_block(layers: int) -> None:
    captured, program, x, expected = planned(layers, 1)
    local = localize(program, 0)
    ir.run_passes(local, [OutlineBlocks()])
    ir.verify(local)
    calls = blocks_of(local)
    assert len(calls) >= layers - 1 and len(set(calls)) <= 3  # code does not grow with the number of layers
    assert all(node.op != "call_function" or not str(node.target).startswith("aten") for node in local.nodes)
    with torch.no_grad():
        (found,) = run_rank(local, captured.params, [x], Alone())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layers_that_read_what_is_kept_share_one_block() -> None:
    sizes = []
    for layers in (5, 9):
        captured = capture(Read(layers).eval(), (torch.randn(1, 24, 8), torch.randn(1, 6, 16)), {})
        ir.run_passes(captured.program, default_pipeline(Target(1, invariant=("text",))))
        local = localize(captured.program, 0)
        ir.run_passes(local, [OutlineBlocks()])
        nodes = list(local.nodes)
        kept = [number for number, node in enumerate(nodes) if node.target is ir.memory.keep]
        assert len(kept) == layers
        blocks = {node.target for node in nodes[kept[-1] :] if isinstance(node.target, Block)}
        sizes.append(sum(len(block.graph.nodes) for block in blocks))
    assert sizes[0] == sizes[1]  # code does not grow with the number of layers


def test_ranks_run_their_blocks_between_transfers() -> None:
    captured, program, x, expected = planned(4, 3)
    locals_ = [localize(program, rank) for rank in range(3)]
    for local in locals_:
        ir.run_passes(local, [OutlineBlocks()])
        assert len(set(blocks_of(local))) < len(blocks_of(local))
    with torch.no_grad():
        for (found,) in run_lockstep(locals_, [captured.params] * 3, [x]):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_inductor_makes_one_code_for_equal_layers_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor import compile_fx
    from torch._inductor.utils import fresh_cache

    compiled: list[Any] = []
    original = compile_fx.compile_fx
    monkeypatch.setattr(compile_fx, "compile_fx", lambda *args: compiled.append(args) or original(*args))
    monkeypatch.setenv("FASTVIDEO_CODEGEN", "inductor")
    model, x = Stack(6).eval(), torch.randn(1, 24, 8)
    counters.clear()
    with torch.no_grad(), fresh_cache():
        with fastvideo.compile(model, device="cpu") as fast:
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(fast(2 * x), model(2 * x), rtol=1e-4, atol=1e-5)
        blocks = len(compiled)
        with fastvideo.compile(model, device="cpu") as again:  # with the files of the first alone, as a new process has
            torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)
    assert 1 <= blocks <= 3
    assert counters["inductor"]["fxgraph_cache_hit"] == counters["inductor"]["fxgraph_cache_miss"] == blocks
    assert counters["aot_autograd"]["autograd_cache_hit"] == blocks


def test_unknown_generator_is_an_error_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_CODEGEN", "inducktor")
    with pytest.raises(UnknownNameError, match=r"unknown code generator 'inducktor'; known: eager, inductor"):
        fastvideo.compile(Stack(1).eval(), device="cpu")
