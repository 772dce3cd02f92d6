"""The kernel that quantizes tokens, under the interpreter, against its reference; odd pieces of a layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fastvideo.backends.fused import quantization
from fastvideo.backends.fused.quantize_kernel import quantize_rows

STEP = 0.13
"""Largest relative difference of neighbouring e4m3 codes: one step of eight."""


@settings(max_examples=20, phases=(Phase.explicit, Phase.generate))
@given(
    st.sampled_from(["fp8", "int8"]),
    st.integers(1, 5),
    st.integers(1, 700),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_kernel_quantizes_as_the_reference(name: str, rows: int, width: int, gelu: bool, dtype: torch.dtype) -> None:
    fmt = quantization.named(name)
    x = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    x[0, 0] = 0
    codes, scales = quantize_rows(x, fmt, gelu)
    wanted, wanted_scales = quantization.quantized(x, fmt, gelu)
    torch.testing.assert_close(scales, wanted_scales, rtol=1e-3, atol=1e-7)
    assert (codes.dtype, codes.shape, scales.shape) == (fmt.dtype, x.shape, (2, rows, 1))
    difference = (codes.float() - wanted.float()).abs()
    if name == "int8":
        assert float(difference.max()) <= 1 and float((difference > 0).float().mean()) < 0.02
    else:
        # Triton's interpreter drops the carry where rounding goes up to a power of two, and halves the code.
        carried = wanted.float().abs().log2().frac() == 0
        allowed = torch.where(carried, 0.5, STEP) * wanted.float().abs() + 2**-6
        assert bool((difference <= allowed).all())


@pytest.mark.parametrize("width", [1, 6, 64, 65, 8960 // 16])
def test_rows_that_are_not_next_to_each_other_are_read_where_they_lie(width: int) -> None:
    fmt = quantization.named("int8")
    wide = torch.randn(4, 3 * width)
    part = wide[:, width : 2 * width]
    assert torch.equal(quantize_rows(part, fmt, False)[0], quantize_rows(part.contiguous(), fmt, False)[0])
