"""SAGE_ATTN: what it refuses, its reference, and its kernels under the interpreter against that reference."""

from __future__ import annotations

import math
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastvideo
import fastvideo_ir as ir
from fastvideo.backends import attention
from fastvideo.backends.attention.sage import flash3, kernel, package
from fastvideo.backends.attention.sage.reference import hadamard, quantized_attention
from fastvideo_ir.errors import BackendUnavailableError

COSINE = 0.998
CUT = 0.12
"""Error of e4m3 codes under Triton's interpreter, which halves those that round up to a power of two. Wrong orders of
tokens or channels, or wrong scales, make it 1."""
PHASES = (Phase.explicit, Phase.generate)
"""Without shrinking, which takes minutes under the interpreter."""


def activations(heads: int, kv_heads: int, queries: int, keys: int, channels: int, seed: int = 0) -> list[Tensor]:
    """With outliers: heavy-tailed queries, keys with large means in some channels, values with loud channels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def some(share: float) -> Tensor:
        return (torch.rand(channels, generator=generator) < share).float()

    tail = normal(4, 1, heads, queries, 1).square().mean(0).sqrt()
    q = normal(1, heads, queries, channels) / tail * (1 + 5 * some(0.05))
    k = normal(1, kv_heads, keys, channels) + 8 * some(0.1) * normal(1, kv_heads, 1, channels)
    v = normal(1, kv_heads, keys, channels) * (1 + 20 * some(0.05)) + normal(1, kv_heads, 1, channels)
    return [q, k, v]


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    result: Tensor = ir.ops.attention.attention(q.double(), k.double(), v.double(), None, scale, False)
    return result


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def site(*, head_dim: int = 64, value_dim: int | None = None, device: str = "cpu", **options: Any) -> Any:
    kinds = [ir.TensorType(options.pop("dtype", torch.float32), (1, 2, 30, head_dim))] * 2
    value = ir.TensorType(kinds[0].dtype, (1, 2, 30, value_dim or head_dim))
    asked = {"mask": None, "scale": None, "causal": False, **options}
    return attention.AttentionSite(*kinds, value, device=device, **asked)


MASK = ir.TensorType(torch.bool, (30, 30))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"head_dim": 72}, "head_dim 72 is not a multiple of 16 from 64 to 128"),
        ({"head_dim": 32}, "head_dim 32 is not a multiple of 16 from 64 to 128"),
        ({"head_dim": 256}, "head_dim 256 is not a multiple of 16 from 64 to 128"),
        ({"value_dim": 128}, "values of 128 channels with keys of 64"),
        ({"mask": MASK}, "it takes no mask"),
        ({"causal": True}, "it has no causal form"),
        ({"dtype": torch.int32}, "dtype torch.int32 is no floating point type"),
        ({"device": "mps"}, "it does not run on mps"),
    ],
    ids=str,
)
def test_refusals_say_why(asked: dict[str, Any], reason: str) -> None:
    assert attention.named("SAGE_ATTN").supports(site(**asked)) == attention.No(reason)


def test_gpus_are_asked_for_their_dtype_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    sage = attention.named("SAGE_ATTN")
    double, half = (site(device="cuda", dtype=dtype) for dtype in (torch.float64, torch.bfloat16))
    assert sage.supports(double) == attention.No("dtype torch.float64 is not float16 or bfloat16")
    assert sage.supports(half) == attention.No("it needs a GPU of compute capability 8.9 or more; this one has 8.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert sage.supports(half) == attention.Yes()


def test_it_runs_when_named_alone_and_an_error_says_where_it_cannot() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 50, 64)
    with fastvideo.compile(Model().eval(), device="cpu", attention_backend="SAGE_ATTN") as compiled:
        found = compiled.compare_exact(x)
        assert found.settings == ("attention_backend=SAGE_ATTN",)
        assert 1e-3 < found.outputs[0].relative_l2 < 0.06
    with fastvideo.compile(Model().eval(), device="cpu") as compiled:
        assert compiled.compare_exact(x).outputs[0].relative_l2 == 0
    with (
        fastvideo.compile(Model().eval(), device="cpu", attention_backend="SAGE_ATTN") as compiled,
        pytest.raises(BackendUnavailableError, match=r"SAGE_ATTN cannot run .* head_dim 72 is not a multiple of 16"),
    ):
        compiled(torch.randn(1, 2, 50, 72))


@pytest.mark.parametrize("channels", [64, 96, 128])
def test_reference_keeps_the_bound_on_activations_with_outliers(channels: int) -> None:
    q, k, v = activations(4, 2, 300, 500, channels)
    scale = 0.7 / math.sqrt(channels)
    wanted = exact(q, k, v, scale)
    found = quantized_attention(q, k, v, scale)
    assert cosine(found, wanted) >= COSINE
    assert relative_error(found, wanted) > 1e-4, "nothing was quantized"
    assert relative_error(quantized_attention(q, k, v, 2 * scale), wanted) > 0.1, "the scale is not ignored"


def test_smoothing_is_what_keeps_the_bound() -> None:
    """Constant vectors in keys and values, large ones: without smoothing they would take up the codes."""
    q, k, v = activations(2, 2, 100, 300, 64)
    offset = 200 * torch.randn(1, 2, 1, 64, generator=torch.Generator().manual_seed(1))
    plain = quantized_attention(q, k, v, 0.1)
    assert relative_error(quantized_attention(q, k + offset, v, 0.1), plain) < 0.02
    assert relative_error(quantized_attention(q, k, v + offset, 0.1) - offset, plain) < 0.02


def test_ranks_with_some_heads_or_queries_compute_what_one_rank_does() -> None:
    q, k, v = activations(4, 2, 100, 150, 64)
    whole = quantized_attention(q, k, v, 0.1)
    pieces = zip(q.chunk(2, 1), k.chunk(2, 1), v.chunk(2, 1), strict=True)
    heads = torch.cat([quantized_attention(*piece, 0.1) for piece in pieces], 1)
    tokens = torch.cat([quantized_attention(part, k, v, 0.1) for part in q.split(37, 2)], 2)
    torch.testing.assert_close(heads, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.kernel_loops
@settings(max_examples=8, phases=PHASES)
@given(
    st.integers(1, 150),
    st.integers(1, 300),
    st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    st.sampled_from([64, 80, 128]),
    st.booleans(),
    st.floats(0.05, 0.3),
)
def test_kernel_agrees_with_the_reference(
    queries: int, keys: int, heads: tuple[int, int], channels: int, transposed: bool, scale: float
) -> None:
    q, k, v = activations(*heads, queries, keys, channels, seed=queries + keys)
    if transposed:  # the memory order of models that split heads off the channels
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    found = kernel.attend(q, k, v, scale)
    assert found.shape == q.shape and found.transpose(1, 2).is_contiguous()
    assert relative_error(found, quantized_attention(q, k, v, scale)) < CUT
    assert relative_error(found, exact(q, k, v, scale)) < CUT


@settings(max_examples=5, phases=PHASES)
@given(st.integers(1, 150), st.integers(2, 200), st.sampled_from([(1, 1), (4, 2)]), st.sampled_from([64, 128]))
def test_codes_for_flash_attention_3_stand_for_the_operands(
    queries: int, keys: int, heads: tuple[int, int], channels: int
) -> None:
    q, k, v = activations(*heads, queries, keys, channels, seed=queries)
    codes, (query_scales, key_scales), value_scales, value_means = flash3.encoded(q, k, v)
    assert all(code.dtype is torch.float8_e4m3fn and bool(code.float().isfinite().all()) for code in codes)
    groups, back = heads[0] // heads[1], hadamard(channels, q)
    queries_back = codes[0].float().transpose(1, 2) * query_scales.repeat_interleave(groups, 1)[..., None, None] @ back
    keys_back = codes[1].float().transpose(1, 2) * key_scales[..., None, None] @ back
    values_back = codes[2].float() * value_scales + value_means
    assert relative_error(queries_back, q) < CUT
    assert relative_error(keys_back, k - k.mean(2, keepdim=True)) < CUT
    assert relative_error(values_back.transpose(1, 2), v) < CUT
    found = flash3.decoded(codes[2].float().repeat_interleave(groups, 2), value_scales, value_means, heads[0])
    torch.testing.assert_close(found, values_back.repeat_interleave(groups, 2))


@pytest.mark.parametrize(
    ("version", "capability", "taken"), [("2.2.0", (9, 0), True), ("1.0.6", (9, 0), False), ("2.2.0", (10, 0), False)]
)
def test_the_package_is_taken_where_it_fits_and_gets_the_scale(
    monkeypatch: pytest.MonkeyPatch, version: str, capability: tuple[int, int], taken: bool
) -> None:
    seen: dict[str, Any] = {}

    def sageattn(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.update(options)
        return q

    module = ModuleType("sageattention")
    module.sageattn = sageattn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", module)
    monkeypatch.setattr(package, "find_spec", lambda name: module)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    package.sage_package.cache_clear()
    attend = package.sage_package(capability)
    package.sage_package.cache_clear()
    assert (attend is not None) == taken
    if attend is not None:
        attend(*[torch.ones(1, 1, 2, 64)] * 3, 0.3)
        assert seen == {"tensor_layout": "HND", "is_causal": False, "sm_scale": 0.3}
