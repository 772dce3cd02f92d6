"""Ops that worker processes call without importing what only training and tracing need."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fastvideo_ir.ops.custom import CustomOp, custom_op


def scaled(factor: int) -> CustomOp:
    @custom_op("fvtest::scaled")
    def op(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return x * factor if bias is None else x * factor + bias

    @op.register_fake
    def _(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.empty_like(x)

    return op


def test_it_stands_in_the_dispatcher_and_may_be_made_anew() -> None:
    x = torch.arange(3.0)
    assert torch.equal(scaled(2)(x), 2 * x)
    assert torch.equal(scaled(3)(x, x), 4 * x)
    assert torch.equal(torch.ops.fvtest.scaled.default(x), 3 * x)
    assert torch.ops.fvtest.scaled(x.to("meta")).shape == (3,)


def test_memory_of_an_argument_is_refused() -> None:
    @custom_op("fvtest::tail")
    def tail(x: Tensor) -> Tensor:
        return x[1:]

    with pytest.raises(RuntimeError, match="fvtest::tail returns memory of an argument"):
        tail(torch.zeros(3))


def test_a_call_imports_no_compiler() -> None:
    script = (
        "import sys, torch, fastvideo.runtime.worker\n"
        "from fastvideo.runtime.numerics import apply_numeric_settings, numeric_settings\n"
        "apply_numeric_settings(numeric_settings())\n"
        "q = torch.ones(1, 2, 3, 4)\n"
        "torch.ops.fv.attention(q, q, q)\n"
        "print('torch._dynamo' in sys.modules, 'torch._inductor' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]
