"""Kernels against references on a GPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo.backends import attention, fused
from fastvideo_ir import TensorType
from fastvideo_ir.ops.ring import attention_with_lse

from .test_blocks import Stack

pytestmark = pytest.mark.gpu


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("shape", [(2, 130, 96, 200), (1, 7, 64, 64)])
def test_linear_gelu_is_as_exact_as_the_two_ops(shape: tuple[int, int, int, int]) -> None:
    batch, tokens, width, out = shape
    x = torch.randn(batch, tokens, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(out, width, device="cuda", dtype=torch.bfloat16) * width**-0.5
    bias = torch.randn(out, device="cuda", dtype=torch.bfloat16)
    exact = nn.functional.gelu(x.double() @ weight.double().T + bias.double(), approximate="tanh")
    apart = nn.functional.gelu(nn.functional.linear(x, weight, bias), approximate="tanh")
    assert relative(fused.linear_gelu_op(x, weight, bias), exact) <= 1.1 * relative(apart, exact)


def test_linear_over_parts_rounds_twice_and_no_more() -> None:
    parts = [torch.randn(2, 130, width, device="cuda", dtype=torch.bfloat16) for width in (64, 256)]
    weight = torch.randn(200, 320, device="cuda", dtype=torch.bfloat16) * 320**-0.5
    bias = torch.randn(200, device="cuda", dtype=torch.bfloat16)
    exact = torch.cat(parts, -1).double() @ weight.double().T + bias.double()
    joined = nn.functional.linear(torch.cat(parts, -1), weight, bias)
    assert relative(fused.cat_linear_op(parts, weight, bias), exact) <= 1.5 * relative(joined, exact)


@pytest.mark.parametrize("shape", [(2, 130, 1536), (1, 7, 5120)])
def test_fused_norms_are_as_exact_as_their_ops(shape: tuple[int, int, int]) -> None:
    x, y = (torch.randn(shape, device="cuda").bfloat16() for _ in "xy")
    scale, shift = torch.randn(2, 1, 1, shape[-1], device="cuda")
    total, out = fused.add_norm_op(x, y, scale, None, None, scale, shift, 1e-6, False, torch.bfloat16, torch.bfloat16)
    norm = nn.functional.layer_norm

    def apart(wide: Tensor) -> Tensor:
        return norm(wide, shape[-1:], eps=1e-6) * scale.to(wide.dtype) + shift.to(wide.dtype)

    exact_total = x.double() + y.double() * scale.double()
    eager_total = (x.float() + y * scale).bfloat16()
    assert relative(total, exact_total) <= 1.1 * relative(eager_total, exact_total)
    exact, eager = apart(exact_total), apart(eager_total.float()).bfloat16()
    assert relative(out, exact) <= 1.1 * relative(eager, exact)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("heads", "head_dim", "joint"), [(12, 128, True), (24, 128, False), (5, 72, True)])
def test_fused_rotation_is_as_exact_as_rounding_allows(
    interleaved: bool, heads: int, head_dim: int, joint: bool
) -> None:
    x = torch.randn(1, 77, heads, head_dim, device="cuda").bfloat16()
    cos, sin = torch.randn(2, 77, 1, head_dim // 2, device="cuda")
    weight = torch.randn(heads * head_dim if joint else head_dim, device="cuda").bfloat16()
    rest = "rms", joint, 1e-6, interleaved
    exact = fused.norm_rotary_op(x.double(), cos.double(), sin.double(), weight.double(), None, *rest, torch.float64)
    found = fused.norm_rotary_op(x, cos, sin, weight, None, *rest, torch.bfloat16)
    assert relative(found, exact) <= 1.1 * relative(exact.bfloat16(), exact)


@pytest.mark.parametrize("name", ["TORCH_SDPA", "FLASH_ATTN"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 128), (6, 2, 64)])
def test_backend_equals_softmax_attention(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    q = torch.randn(1, 300, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    k, v = (torch.randn(1, 411, kv_heads, head_dim, device="cuda").bfloat16().transpose(1, 2) for _ in "kv")
    backend = attention.named(name)
    site = attention.AttentionSite(*(TensorType.of(t) for t in (q, k, v)), None, 0.2, False, "cuda")
    answer = backend.supports(site)
    if isinstance(answer, attention.No):
        assert importlib.util.find_spec("fa3_fwd_interface") is None
        pytest.skip(answer.reason)
    found = attention.op_of(backend)(q, k, v, None, 0.2, False)
    kv = heads // kv_heads
    exact = nn.functional.scaled_dot_product_attention(
        q.double(), k.double().repeat_interleave(kv, 1), v.double().repeat_interleave(kv, 1), scale=0.2
    )
    assert relative(found, exact) < 5e-3 and found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("name", ["TORCH_SDPA", "FLASH_ATTN"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 128), (6, 2, 64)])
def test_backend_attends_to_the_first_keys_of_each_row(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    q = torch.randn(3, 300, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    k, v = (torch.randn(3, 411, kv_heads, head_dim, device="cuda").bfloat16().transpose(1, 2) for _ in "kv")
    lengths = torch.tensor([411, 256, 1], dtype=torch.int32, device="cuda")
    backend = attention.named(name)
    site = attention.AttentionSite(*(TensorType.of(t) for t in (q, k, v)), None, 0.2, False, "cuda")
    answer = backend.answer(site.with_lengths(TensorType.of(lengths)))
    if isinstance(answer, attention.No):
        assert importlib.util.find_spec("fa3_fwd_interface") is None
        pytest.skip(answer.reason)
    found = attention.op_of(backend)(q, k, v, lengths, 0.2, False)
    exact = torch.ops.fv.attention(q.double(), k.double(), v.double(), lengths, 0.2, False)
    assert relative(found, exact) < 5e-3 and found.transpose(1, 2).is_contiguous()


def test_fused_code_is_as_exact_as_eager() -> None:
    model = Stack(4).eval().cuda()
    half = Stack(4).eval().cuda().bfloat16()
    half.load_state_dict(model.state_dict())
    model.load_state_dict(half.state_dict())  # the same weights in both precisions
    x = torch.randn(1, 640, 8, device="cuda").bfloat16()
    with torch.no_grad(), fastvideo.compile(half) as fast:
        exact = model(x.float())
        assert relative(fast(x), exact) <= 1.1 * relative(half(x), exact)


@pytest.mark.parametrize("name", ["TORCH_SDPA", "FLASH_ATTN"])
def test_backend_tells_the_log_sum_exp_of_its_scores(name: str) -> None:
    q, k, v = (torch.randn(1, 200, 4, 128, device="cuda").bfloat16().transpose(1, 2) for _ in "qkv")
    backend = attention.named(name)
    answer = backend.answer(
        attention.AttentionSite(*(TensorType.of(t) for t in (q, k, v)), None, 0.2, False, "cuda", ring=True)
    )
    if isinstance(answer, attention.No):
        pytest.skip(answer.reason)
    out, lse = backend.run_with_lse(q, k, v, None, 0.2, False)
    exact, exact_lse = attention_with_lse(q.double(), k.double(), v.double(), None, 0.2, False)
    assert relative(out, exact) < 5e-3 and relative(lse, exact_lse) < 1e-4
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32


def test_measured_choice_is_a_backend_that_runs() -> None:
    kinds = [TensorType(torch.bfloat16, (1, 4, tokens, 128)) for tokens in (2000, 2500, 2500)]
    site = attention.AttentionSite(*kinds, None, None, False, "cuda")
    kept: dict[str, dict[str, float]] = {}
    choice = attention.choose(site, fastest=attention.on_this_gpu(kept))
    ((_, seconds),) = kept.items()
    assert {"TORCH_SDPA", "SDPA_CUDNN", "SDPA_FLASH", "SDPA_EFFICIENT"} <= set(seconds)
    assert seconds[choice.backend.name] == min(seconds.values()) < 1.0
    assert 0 < seconds["TORCH_SDPA"] < 1.0
