"""8-bit attention and linear layers on a GPU, against references and exact results."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo.backends import attention, fused
from fastvideo.backends.attention.sage import flash3, kernel
from fastvideo.backends.attention.sage.reference import quantized_attention
from fastvideo.backends.fused import quantization

from .test_sage import COSINE, activations, cosine, exact, relative_error

pytestmark = pytest.mark.gpu
SHAPES = [(4, 4, 1000, 3000, 128), (6, 2, 777, 2049, 128), (4, 2, 65, 4096, 64), (2, 2, 300, 2500, 96)]


def on_gpu(heads: int, kv_heads: int, queries: int, keys: int, channels: int) -> list[Tensor]:
    drawn = activations(heads, kv_heads, queries, keys, channels)
    return [x.cuda().bfloat16().transpose(1, 2).contiguous().transpose(1, 2) for x in drawn]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sage_keeps_its_bound_and_its_kernel_agrees_with_the_reference(shape: tuple[int, ...]) -> None:
    q, k, v = on_gpu(*shape)
    scale = 0.7 / math.sqrt(shape[4])
    wanted = exact(q, k, v, scale)
    assert cosine(attention.op_of(attention.named("SAGE_ATTN"))(q, k, v, None, scale, False), wanted) >= COSINE
    found = kernel.attend(q, k, v, scale)
    assert cosine(found, wanted) >= COSINE
    assert relative_error(found, quantized_attention(q, k, v, scale)) < 0.02


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_flash_attention_3_in_fp8_keeps_the_bound(shape: tuple[int, ...]) -> None:
    if not flash3.fits(torch.cuda.get_device_capability(), shape[4]):
        pytest.skip("FlashAttention 3 is not installed, or this is no Hopper GPU")
    q, k, v = on_gpu(*shape)
    scale = 0.7 / math.sqrt(shape[4])
    assert cosine(flash3.attend(q, k, v, scale), exact(q, k, v, scale)) >= COSINE


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("rows", "inner", "out"), [(1000, 1536, 8960), (7, 100, 52), (300, 72, 64)])
def test_scaled_linear_is_that_of_the_reference(name: str, gelu: bool, rows: int, inner: int, out: int) -> None:
    fmt = quantization.named(name)
    reason = quantization.refusal(fmt, "cuda")
    if reason is not None:
        pytest.skip(reason)
    x = torch.randn(2, rows, inner, device="cuda").bfloat16() * torch.rand(2, rows, 1, device="cuda").mul(5).exp()
    weight, bias = torch.randn(out, inner, device="cuda") * 0.02, torch.randn(out, device="cuda").bfloat16()
    step = quantization.row_scales(weight, fmt)
    weight_codes, weight_scales = quantization.encode(weight, step, fmt), step.squeeze(-1)
    codes, scales = fused.quantize_tokens_op(x, fmt.dtype, gelu)
    wanted_codes, wanted_scales = quantization.quantized(x, fmt, gelu)
    torch.testing.assert_close(scales, wanted_scales, rtol=1e-2, atol=1e-7)
    assert float((codes.float() != wanted_codes.float()).float().mean()) < 0.02
    operands = codes, scales, weight_codes, weight_scales, bias, torch.bfloat16
    assert relative_error(fused.scaled_linear_op(*operands), quantization.multiplied(*operands)) < 5e-3


def test_a_model_reports_small_errors_on_its_own_inputs() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(512, 1536), nn.Linear(512, 512)
            self.up, self.down = nn.Linear(512, 2048), nn.Linear(2048, 512)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (t.unflatten(-1, (4, 128)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(x), approximate="tanh"))

    model = nn.Sequential(*[Layer() for _ in range(3)]).eval().cuda().bfloat16()
    x = torch.randn(1, 16384, 512, device="cuda").bfloat16()
    with fastvideo.compile(model, attention_backend="SAGE_ATTN", quantization="fp8") as compiled:
        (error,) = compiled.compare_exact(x).outputs
        assert 1e-4 < error.relative_l2 < 0.05
        assert any(node.target is fused.scaled_linear_op for node in compiled.programs[0].nodes)
