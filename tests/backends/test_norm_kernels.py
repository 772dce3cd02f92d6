"""The kernels of the fused norms against their references: compiled on a GPU, elsewhere under the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastvideo.backends import fused
from fastvideo.backends.fused.norm_kernel import normalize_rows
from fastvideo.backends.fused.rotary_kernel import rotate_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def poisoned(like: Tensor) -> Tensor:
    """Room for a result, in which what is not written shows."""
    return torch.full(like.shape, torch.nan, dtype=like.dtype, device=like.device)


def assert_close(found: Tensor, double: Tensor) -> None:
    torch.testing.assert_close(found.double(), double, rtol=1e-5, atol=1e-5)


def doubled(*values: Tensor | None) -> list[Tensor | None]:
    return [None if value is None else value.double() for value in values]


@pytest.mark.parametrize("width", [8, 1100])
@pytest.mark.parametrize("rms", [True, False])
def test_norm_with_its_modulation(width: int, rms: bool) -> None:
    x = drawn(2, width, 3).transpose(1, 2)  # channels are far from each other
    weight, scale, shift = drawn(width), drawn(2, 6, width)[:, 1:2], drawn(1, 1, width)
    operands = [weight, None if rms else drawn(width), scale, shift]
    out = poisoned(x)
    normalize_rows(x, None, None, *operands, 1e-6, rms, out)
    assert_close(out, fused.modulated_norm_op(*doubled(x, *operands), 1e-6, rms, torch.float64))


@pytest.mark.parametrize("gated", [True, False])
def test_sum_and_its_norm(gated: bool) -> None:
    x, y = drawn(2, 3, 40), drawn(2, 3, 80)[..., 40:]
    gate = drawn(2, 1, 40) if gated else None
    total, out = poisoned(x), poisoned(x)
    normalize_rows(x, y, gate, None, None, None, None, 1e-6, False, out, total)
    wanted = fused.add_norm_op(*doubled(x, y, gate), *[None] * 4, 1e-6, False, torch.float64, torch.float64)
    assert_close(total, wanted[0])
    assert_close(out, wanted[1])


def test_sum_is_rounded_where_it_is_stored_alone() -> None:
    x, y = torch.full((1, 1, 2), 256.0), torch.tensor([[[0.25, 0.75]]])
    total, out = (torch.empty(1, 1, 2, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    normalize_rows(x.to(DEVICE), y.to(DEVICE), None, None, None, None, None, 1e-6, False, out, total)
    reference = fused.add_norm_op(x, y, *[None] * 5, 1e-6, False, torch.bfloat16, torch.bfloat16)
    for rounded, normalized in ((total.cpu(), out.cpu()), reference):
        assert rounded.tolist() == [[[256.0, 256.0]]]
        torch.testing.assert_close(normalized.float(), torch.tensor([[[-1.0, 1.0]]]), rtol=0, atol=0.01)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    ("norm", "joint", "cos_full", "sin_full"),  # the latter two: a value per channel, not per pair
    [
        ("rms", True, False, False),
        ("layer", True, True, True),
        ("rms", False, True, False),
        ("none", False, False, True),
    ],
)
def test_norm_and_rotation(interleaved: bool, norm: str, joint: bool, cos_full: bool, sin_full: bool) -> None:
    rows, channels = 3, 12  # neither is a power of two
    x = drawn(2, 5, rows, 3 * channels)[..., channels : 2 * channels]
    cos, sin = (drawn(5, 1, channels if full else channels // 2) for full in (cos_full, sin_full))
    size = rows * channels if joint else channels
    weight = None if norm == "none" else drawn(size)
    bias = drawn(size) if norm == "layer" else None
    for value, c, s in [(x, cos, sin)] + ([] if joint else [(x.transpose(1, 2), cos[:, 0], sin[:, 0])]):
        out = poisoned(value)
        rotate_rows(value, c, s, weight, bias, norm, joint, 1e-6, interleaved, out)
        operands = doubled(value, c, s, weight, bias)
        assert_close(out, fused.norm_rotary_op(*operands, norm, joint, 1e-6, interleaved, torch.float64))


def test_more_rows_than_one_program_takes() -> None:
    x, cos, sin = drawn(2, 1, 150, 24), drawn(150, 12), drawn(2, 1, 1, 24)
    out = poisoned(x)
    rotate_rows(x, cos, sin, None, None, "rms", False, 1e-6, True, out)
    wanted = fused.norm_rotary_op(*doubled(x, cos, sin, None, None), "rms", False, 1e-6, True, torch.float64)
    assert_close(out, wanted)
