"""``join-slices``: what is cut and joined again is left whole, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo.frontends.capture import capture
from fastvideo.passes.join_slices import JoinSlices
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo_ir.ops.define import aten

from .running import RankRun, count

TEXT, VIDEO = 3, 8
Cut = Callable[[Tensor], tuple[Tensor, ...]]

WHOLE: dict[str, Cut] = {
    "slices": lambda x: (x[:, :TEXT], x[:, TEXT:]),
    "slices counted from the end": lambda x: (x[:, :-VIDEO], x[:, -VIDEO:]),
    "split": lambda x: x.split([TEXT, VIDEO], 1),
    "chunks of unequal size": lambda x: x.chunk(3, 1),
}
OTHER: dict[str, Cut] = {
    "other order": lambda x: (x[:, TEXT:], x[:, :TEXT]),
    "a gap": lambda x: (x[:, :TEXT], x[:, TEXT + 1 :]),
    "an overlap": lambda x: (x[:, :TEXT], x[:, TEXT - 1 :]),
    "the end missing": lambda x: (x[:, :TEXT], x[:, TEXT:-1]),
    "every second": lambda x: (x[:, ::2], x[:, 6:]),
    "another tensor": lambda x: (x[:, :TEXT], x.sin()[:, TEXT:]),
    "along another dim": lambda x: (x[:1], x[1:]),
}


class Rejoin(nn.Module):
    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut, self.linear = cut, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat(self.cut(self.linear(x)), 1))


def joined(cut: Cut, *axes: tuple[str, int]) -> ir.Program:
    """The program behind the pass, of which every rank computes what the model does."""
    model, x = Rejoin(cut).eval(), torch.randn(2, TEXT + VIDEO, 8)
    captured = capture(model, (x,), {}, verify=False)
    if axes:
        captured.program.mesh = ir.Mesh(axes)
    program = captured.program
    ir.run_passes(program, [*default_pipeline(Target(program.mesh.num_ranks)), JoinSlices()])
    ir.verify(program)
    for (found,) in RankRun(program, (dict(captured.params), [x])).outputs():
        torch.testing.assert_close(found, model(x))
    return program


@pytest.mark.parametrize("cut", WHOLE.values(), ids=WHOLE)
def test_slices_in_order_are_left_whole(cut: Cut) -> None:
    assert count(joined(cut), aten.cat.default) == 0


@pytest.mark.parametrize("cut", OTHER.values(), ids=OTHER)
def test_other_slices_are_joined(cut: Cut) -> None:
    assert count(joined(cut), aten.cat.default) == 1


def test_slices_that_ranks_divide_as_the_whole_are_left_whole() -> None:
    assert count(joined(WHOLE["slices"], ("sp", 2)), aten.cat.default) == 0
