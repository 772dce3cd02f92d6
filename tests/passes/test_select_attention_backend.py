"""``select-attention-backend`` and the ordered list behind it: who is asked, who is taken, and why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.backends import attention
from fastvideo.backends.attention import registry
from fastvideo.passes.select_attention_backend import SelectAttentionBackend
from fastvideo_ir.errors import BackendUnavailableError, InvalidArgumentError, UnknownNameError

from .running import assert_same_numbers, program, run_passes


class Picky(attention.AttentionBackend):
    """Runs no head_dim but 16."""

    name = "PICKY_TEST"

    def supports(self, site: attention.AttentionSite) -> attention.Support:
        return attention.Yes() if site.head_dim == 16 else attention.No(f"head_dim {site.head_dim} is not 16")

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
        causal: bool,
    ) -> torch.Tensor:
        return self.reference(q, k, v, mask, scale, causal)


class Rough(Picky):
    name = "ROUGH_TEST"
    exact = False

    def supports(self, site: attention.AttentionSite) -> attention.Support:
        return attention.Yes()


# Ops cannot be taken back from torch, so they are made once; only the tests below see these backends in the list.
_listed_before = dict(registry._registered)
attention.register(Picky())
attention.register(Rough())
LISTED = {name: registry._registered[name] for name in ("TORCH_SDPA", "PICKY_TEST", "ROUGH_TEST")}
registry._registered.clear()
registry._registered.update(_listed_before)


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(LISTED))
    yield


def site_of(head_dim: int, dtype: str = "f32", rest: str = "None, None, False") -> ir.Program:
    return program(
        f"""
        %q : {dtype}[2, 4, 5, {head_dim}] = input
        %mask : {dtype}[5, 5] = input
        %out : {dtype}[2, 4, 5, {head_dim}] = fv.attention(%q, %q, %q, {rest}) loc("block.0" "model.py":7)
        return (%out)"""
    )


def chosen(after: ir.Program) -> str:
    return next(ir.ops.target_name(node.target) for node in after.nodes if node.name == "out")


@pytest.mark.parametrize(("head_dim", "op"), [(16, "fv_attn.picky_test"), (8, "fv_attn.torch_sdpa")])
def test_auto_takes_the_newest_exact_backend_that_can(head_dim: int, op: str) -> None:
    before = site_of(head_dim)
    after = run_passes(before, [SelectAttentionBackend()])
    assert chosen(after) == op
    assert_same_numbers(before, after)


def test_inexact_backend_runs_when_named() -> None:
    assert chosen(run_passes(site_of(8), [SelectAttentionBackend(backend="ROUGH_TEST")])) == "fv_attn.rough_test"


def test_choice_remembers_who_refused_and_why() -> None:
    (node,) = (node for node in site_of(8).nodes if node.name == "out")
    choice = attention.choose(attention.AttentionSite.of(node, "cpu"))
    assert choice.backend.name == "TORCH_SDPA"
    assert choice.refusals == (
        ("ROUGH_TEST", "not exact; runs only when named"),
        ("PICKY_TEST", "head_dim 8 is not 16"),
    )


def test_named_backend_that_cannot_run_is_an_error_with_its_reason_and_place() -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        run_passes(site_of(8), [SelectAttentionBackend(backend="PICKY_TEST")])
    assert str(caught.value) == (
        "attention backend PICKY_TEST cannot run the attention at block.0 at model.py:7: head_dim 8 is not 16 "
        "(name another backend, or leave the choice to 'auto')"
    )


def test_unknown_backend_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        run_passes(site_of(8), [SelectAttentionBackend(backend="TORCH_SPDA")])
    assert str(caught.value) == (
        "unknown attention backend 'TORCH_SPDA'; known: PICKY_TEST, ROUGH_TEST, TORCH_SDPA (did you mean 'TORCH_SDPA'?)"
    )


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (site_of(8, "i64"), "dtype torch.int64 is not a floating point type"),
        (site_of(8, rest="%mask, None, True"), "a causal attention with a mask as well"),
    ],
)
def test_site_that_nobody_can_run_is_an_error_with_all_reasons(before: ir.Program, reason: str) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        run_passes(before, [SelectAttentionBackend()])
    assert f"TORCH_SDPA: {reason}" in str(caught.value)
    assert "PICKY_TEST: head_dim 8 is not 16" in str(caught.value)


def test_rank_without_queries_does_not_ask_the_kernel() -> None:
    q, k = torch.ones(1, 0, 5, 16), torch.ones(1, 0, 7, 16)
    assert torch.ops.fv_attn.picky_test(q, k, k).shape == (1, 0, 5, 16)


@pytest.mark.parametrize(
    ("name", "message"), [("TORCH_SDPA", "is registered already"), ("my backend", "not an identifier")]
)
def test_name_that_is_taken_or_no_identifier_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        attention.register(type("Other", (Picky,), {"name": name})())


def test_site_says_what_a_kernel_may_care_for() -> None:
    (node,) = (node for node in site_of(8, rest="%mask, 0.5, False").nodes if node.name == "out")
    site = attention.AttentionSite.of(node, "cuda")
    assert (site.head_dim, site.dtype, site.scale, site.causal, site.device) == (8, torch.float32, 0.5, False, "cuda")
    assert site.is_self_attention
    assert str(site.mask) == "f32[5, 5]"
    assert site.location == ir.Location("block.0", "model.py", 7)
