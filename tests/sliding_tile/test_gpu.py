"""The kernels against the masked reference on a GPU: borders, text, masks, grouped heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastvideo
from fastvideo.backends.attention.sliding_tile import Tiling, sliding_tile_op
from fastvideo.backends.attention.sliding_tile.reference import sliding_tile_reference

from .video_dit import VideoDiT, inputs

pytestmark = pytest.mark.gpu

SHAPES = [
    Tiling((6, 16, 16), (6, 8, 8), 0, 1536),
    Tiling((7, 13, 21), (3, 4, 5), 33, 33 + 1911 + 10),
    Tiling((5, 9, 11), (2, 4, 4), 130, 130 + 495),
    Tiling((1, 40, 52), (1, 8, 16), 0, 2080 + 300),
]
WINDOWS = [(1, 1, 1), (1, 3, 3), (2, 3, 9), (9, 9, 9)]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("head_dim", "dtype", "tolerance"),
    [
        (64, "bfloat16", 1e-2),
        (128, "bfloat16", 1e-2),
        (256, "bfloat16", 1e-2),
        (96, "float16", 2e-3),
        (64, "float32", 1e-5),
    ],
)
@pytest.mark.parametrize("variant", ["plain", "natural order", "grouped", "masked text", "masked"])
def test_kernel_equals_the_masked_reference(head_dim: int, dtype: str, tolerance: float, variant: str) -> None:
    for tiling in SHAPES:
        generator = torch.Generator(device="cuda").manual_seed(0)
        kv_heads = 2 if variant == "grouped" else 4
        q, k, v = (
            torch.randn(2, tiling.length, heads, head_dim, device="cuda", generator=generator)
            .to(getattr(torch, dtype))
            .transpose(1, 2)
            for heads in (4, kv_heads, kv_heads)
        )
        windows = torch.tensor(WINDOWS, dtype=torch.int32, device="cuda")
        mask = None
        if variant.startswith("masked"):
            mask = torch.rand(2, 1, 1, tiling.length, device="cuda", generator=generator) < 0.6
            if variant == "masked text":
                mask[..., tiling.start : tiling.stop] = True
        tiled = variant != "natural order"
        out = sliding_tile_op(q, k, v, windows, mask, 0.3, tiling.grid, tiling.tile, tiling.start, tiled)
        wanted = sliding_tile_reference(q.float(), k.float(), v.float(), windows, mask, 0.3, tiling, tiled)
        assert relative(out, wanted) < tolerance


@pytest.mark.parametrize("codegen", ["eager", "inductor"])
def test_whole_model_equals_the_reference_on_the_cpu(codegen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = VideoDiT(head_dim=64).eval()
    given = inputs((5, 6, 10), 20, batch=2)
    options = fastvideo.SlidingTile(tile=(2, 4, 8), window=(1, 3, 1))
    expected = fastvideo.compile(model, attention_backend=options, device="cpu")(**given)
    monkeypatch.setenv("FASTVIDEO_CODEGEN", codegen)
    model.to("cuda", torch.bfloat16)
    on_gpu = {name: value.to("cuda", torch.bfloat16) for name, value in given.items()}
    with fastvideo.compile(model, attention_backend=options) as compiled:
        assert relative(compiled(**on_gpu).cpu(), expected) < 2e-2
