"""``compare_exact``: what approximate settings change, on the user's own inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastvideo
import fastvideo_ir as ir
from fastvideo.comparison import compare
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo_ir.errors import FastVideoError
from fastvideo_ir.ops.define import aten

from . import toy


class Inflate(ir.Pass):
    """Makes every linear layer's result one per cent larger."""

    name = "inflate-test"
    preserves_numerics = False

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            if node.target is aten.linear.default:
                larger = rewriter.insert(aten.mul.Scalar, (node, 1.01), after=node)
                rewriter.replace(node, larger, only=lambda user, own=larger: user is not own)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), x.argmax(-1)


@pytest.mark.parametrize("options", [{}, {"num_gpus": 2, "executor": "simulated"}], ids=["one", "two"])
def test_error_is_that_of_the_approximate_passes(options: dict[str, object]) -> None:
    x = torch.randn(4, 3, 6)
    steps = default_pipeline(Target(int(str(options.get("num_gpus", 1)))))
    with fastvideo.compile(Scale().eval(), device="cpu", passes=[*steps[:2], Inflate(), *steps[2:]], **options) as fast:
        found = fast.compare_exact(x)
        assert found.settings == ("inflate-test",)
        (error,) = found.outputs  # the integers have none
        assert error.shape == (4, 3, 5)
        assert error.max_error == pytest.approx(0.01, rel=1e-3)
        assert error.relative_l2 == pytest.approx(0.01, rel=1e-3)
        assert error.cosine == pytest.approx(1.0)
        assert "inflate-test" in str(found) and "1.00e-02" in str(found)


def test_exact_program_has_no_error_and_leaves_no_program_behind() -> None:
    with fastvideo.compile(toy.build(1), device="cpu") as compiled:
        found = compiled.compare_exact(**toy.inputs())
        assert (found.settings, found.outputs[0].max_error, found.outputs[0].cosine) == ((), 0.0, 1.0)
        assert len(compiled.programs) == 1
        assert "nothing is approximate" in str(found)


def test_values_that_are_not_finite_have_no_error() -> None:
    with pytest.raises(FastVideoError, match="output 0 of the approximate program holds NaN"):
        compare(["x"], [torch.tensor([float("nan")])], [torch.ones(1)])
