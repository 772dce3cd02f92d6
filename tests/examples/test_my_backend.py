"""examples/my_backend.py: that it is attention, what it refuses, and that every model runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir

from ..models import CASES, ModelCase
from .checking import IN_PROCESS, check_against_eager, run_script
from .conftest import EXAMPLES, LoadExample


class Attends(nn.Module):
    """One attention of eight heads."""

    def __init__(self, key_heads: int = 8, causal: bool = False) -> None:
        super().__init__()
        self.key_heads, self.causal = key_heads, causal

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (8, 12)).transpose(1, 2)
        keys = heads[:, : self.key_heads]
        return F.scaled_dot_product_attention(heads, keys, keys, is_causal=self.causal, enable_gqa=self.key_heads < 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mask_shape", [None, (2, 3, 150, 70), (2, 1, 1, 70), (150, 70)])
@pytest.mark.parametrize("boolean", [True, False])
def test_it_is_softmax_attention(
    load_example: LoadExample, dtype: torch.dtype, mask_shape: tuple[int, ...] | None, boolean: bool
) -> None:
    backend = load_example("my_backend").BlockedAttention()
    q, k, v = (torch.randn(2, 3, tokens, 16, dtype=dtype) for tokens in (150, 70, 70))
    mask = None
    if mask_shape is not None:
        mask = torch.rand(mask_shape) > 0.3 if boolean else torch.randn(mask_shape, dtype=dtype)
    found = backend.run(q, k, v, mask, 0.3, False)
    expected = ir.ops.attention.attention(q.double(), k.double(), v.double(), _double(mask), 0.3, False)
    assert found.dtype == dtype and found.is_contiguous()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def _double(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None or mask.dtype == torch.bool else mask.double()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Attends(causal=True), "causal attention is not written"),
        (Attends(key_heads=2), "8 query heads share 2 key heads"),
    ],
)
def test_it_refuses_with_a_reason(load_example: LoadExample, model: nn.Module, reason: str) -> None:
    load_example("my_backend")
    x = torch.randn(1, 20, 96)
    named = fastvideo.compile(model.eval(), device="cpu", attention_backend="BLOCKED")
    with pytest.raises(fastvideo.FastVideoError, match=f"BLOCKED cannot run the attention at .*: {reason}"):
        named(x)
    with fastvideo.compile(model.eval(), device="cpu") as compiled:
        compiled(x)
        explained = compiled.explain()
    assert "1 × TORCH_SDPA (" in explained and f"BLOCKED refused: {reason}" in explained


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("way", IN_PROCESS)
def test_every_model_runs_on_it(case: ModelCase, way: str, load_example: LoadExample) -> None:
    load_example("my_backend")
    explained = check_against_eager(case, attention_backend="BLOCKED", **IN_PROCESS[way])
    assert " × BLOCKED" in explained and "TORCH_SDPA" not in explained


def test_as_a_script(tmp_path: Path) -> None:
    error, explained = run_script("my_backend.py", tmp_path).split("\n", 1)
    assert float(error.removeprefix("error ")) < 1e-5
    assert "on 2 ranks (mp, " in explained and "4 × BLOCKED" in explained


def test_it_is_short() -> None:
    assert len((EXAMPLES / "my_backend.py").read_text().splitlines()) <= 60
