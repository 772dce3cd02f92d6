"""``fuse-cat-linear``: what a linear layer reads is not joined first, where joining costs more than it saves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo.backends import fused
from fastvideo.frontends.capture import capture
from fastvideo.passes.fuse_cat_linear import FuseCatLinear
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo_ir.ops.define import aten

from .running import count

TOKENS = 8192


class SingleStream(nn.Module):
    """A block that ends as Flux's and HunyuanVideo's single-stream blocks do."""

    def __init__(self, outer: int, also_read: bool = False) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(64, 256), nn.Linear(320, outer)
        self.also_read = also_read

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([x, F.relu(self.up(x))], -1)
        out = self.out(joined)
        return out + joined.mean() if self.also_read else out


def fuse(model: nn.Module, x: Tensor, ranks: int = 1) -> tuple[ir.Program, list[Tensor]]:
    captured = capture(model.eval(), (x,), {}, verify=False)
    ir.run_passes(captured.program, [*default_pipeline(Target(ranks)), FuseCatLinear()])
    ir.verify(captured.program)
    return captured.program, ir.interpreter.evaluate(captured.program, captured.params, [x])


@pytest.mark.parametrize("ranks", [1, 2])
def test_parts_are_multiplied_where_they_lie(ranks: int) -> None:
    model, x = SingleStream(64), torch.randn(1, TOKENS, 64)
    program, (found,) = fuse(model, x, ranks)
    assert count(program, fused.cat_linear_op) == 1 and count(program, aten.cat.default) == 0
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [(SingleStream(1024), TOKENS), (SingleStream(64), 64), (SingleStream(64, also_read=True), TOKENS)],
    ids=["wide result", "few tokens", "read by others"],
)
def test_what_costs_more_or_is_needed_stays_joined(model: nn.Module, tokens: int) -> None:
    program, _ = fuse(model, torch.randn(1, tokens, 64))
    assert count(program, fused.cat_linear_op) == 0 and count(program, aten.cat.default) == 1


def test_joined_tokens_are_no_channels() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(320, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.cat([x, x.sin()], 1))

    program, _ = fuse(Tokens(), torch.randn(1, TOKENS, 320))
    assert count(program, fused.cat_linear_op) == 0
