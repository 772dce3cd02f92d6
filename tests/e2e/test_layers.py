"""Attentions whose author says which backends may run them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import Backend, DistributedAttention
from tests.pipeline.test_parity import distance


class Model(nn.Module):
    def __init__(self, *backends: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = DistributedAttention(48, 6, supported_attention_backends=backends or None)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.attn(x, mask)


def backends_of(compiled: fastvideo.CompiledModel) -> set[str]:
    return {site.backend for program in compiled.report.programs for site in program.attention}


@pytest.mark.parametrize("masked", [False, True])
def test_restricted_attention_is_sdpa_and_is_divided(masked: bool) -> None:
    model = Model(Backend.FLASH_ATTN, Backend.TORCH_SDPA).double().eval()
    free = Model().double().eval()
    x = torch.randn(2, 37, 48, dtype=torch.float64)
    mask = torch.rand(2, 1, 37, 37) > 0.3 if masked else None
    expected = free(x, mask)
    assert torch.equal(model(x, mask), expected)
    parallel = fastvideo.Parallel(sp=3)
    with fastvideo.compile(model, parallel=parallel, executor="simulated", device="cpu") as compiled:
        assert distance(compiled(x, mask), expected) < 1e-12
        assert backends_of(compiled) == {"TORCH_SDPA"}
        moved = {node.target for node in compiled.programs[0].nodes}
        assert ir.dialect.all_to_all in moved  # heads are divided as those of any attention


def test_only_those_backends_run_it() -> None:
    model, x = Model(Backend.TORCH_SDPA).eval(), torch.randn(1, 300, 48)
    assert backends_of(_called(fastvideo.compile(model, device="cpu"), x)) == {"TORCH_SDPA"}
    with pytest.raises(
        ir.errors.BackendUnavailableError, match=r"SAGE_ATTN cannot run .*the model allows TORCH_SDPA alone"
    ):
        fastvideo.compile(model, device="cpu", attention_backend="SAGE_ATTN")(x)
    with pytest.raises(ir.errors.BackendUnavailableError, match=r"the model allows TORCH_SDPA alone\b"):
        wish = fastvideo.SlidingTile(grid=(3, 10, 10), tile=(1, 4, 4))
        fastvideo.compile(model, device="cpu", attention_backend=wish)(x)


def test_sliding_tiles_where_they_are_allowed() -> None:
    wish = fastvideo.SlidingTile(grid=(3, 10, 10), tile=(1, 4, 4), window=(3, 3, 3))
    model, x = Model(Backend.TORCH_SDPA, Backend.SLIDING_TILE_ATTN).eval(), torch.randn(1, 300, 48)
    compiled = _called(fastvideo.compile(model, device="cpu", attention_backend=wish), x)
    assert backends_of(compiled) == {"SLIDING_TILE_ATTN"}
    assert distance(compiled(x), model(x)) < 1e-5  # windows that cover the grid


def test_wrong_layers() -> None:
    with pytest.raises(ir.errors.UnknownNameError, match=r"backend 'FLASH_ATTEN'.*did you mean 'FLASH"):
        DistributedAttention(48, 6, supported_attention_backends=["FLASH_ATTEN"])
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"dim=50 is no multiple of num_heads=6 \(give head_dim\)"):
        DistributedAttention(50, 6)
    q = torch.randn(1, 6, 5, 8)
    assert torch.equal(
        fastvideo.attention(q, q, q, is_causal=True), F.scaled_dot_product_attention(q, q, q, is_causal=True)
    )


def _called(compiled: fastvideo.CompiledModel, x: Tensor) -> fastvideo.CompiledModel:
    compiled(x)
    return compiled
