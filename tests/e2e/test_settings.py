"""What the environment may ask for, and what an argument overrides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvideo
from fastvideo.backends import attention
from fastvideo.backends.attention import registry
from fastvideo.settings import resolve_settings
from fastvideo_ir.errors import BackendUnavailableError, UnknownNameError

from . import toy


class Doubled(attention.AttentionBackend):
    """Plainly another backend: twice the attention."""

    name = "DOUBLED_TEST"
    exact = False

    def supports(self, site: attention.AttentionSite) -> attention.Support:
        if site.is_self_attention and site.head_dim == 16:
            return attention.No("head_dim 16 is too dear")
        return attention.Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        return 2 * self.reference(q, k, v, mask, scale, causal)


# Its op cannot be taken back from torch; only the tests below see it in the list.
_listed_before = dict(registry._registered)
attention.register(Doubled())
LISTED = dict(registry._registered)
registry._registered.clear()
registry._registered.update(_listed_before)


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(LISTED))
    yield


def backends_of(**options: Any) -> set[str]:
    with fastvideo.compile(toy.build(1), device="cpu", **options) as compiled:
        compiled(**toy.inputs())
        return {entry.backend for entry in compiled.report.programs[0].attention}


def test_environment_names_the_backend_where_no_argument_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends_of() == {"TORCH_SDPA"}
    monkeypatch.setenv("FASTVIDEO_ATTENTION_BACKEND", "DOUBLED_TEST")
    assert backends_of() == {"DOUBLED_TEST"}


@pytest.mark.parametrize("argument", ["TORCH_SDPA", "auto"])
def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setenv("FASTVIDEO_ATTENTION_BACKEND", "DOUBLED_TEST")
    assert backends_of(attention_backend=argument) == {"TORCH_SDPA"}


def test_named_backend_really_runs_every_attention() -> None:
    outputs = []
    for name in ("TORCH_SDPA", "DOUBLED_TEST"):
        with fastvideo.compile(toy.build(1), device="cpu", attention_backend=name) as compiled:
            outputs.append(compiled(**toy.inputs()).sample)
    assert not torch.allclose(*outputs, rtol=1e-2)


def test_unknown_name_in_the_environment_is_refused_like_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_ATTENTION_BACKEND", "SDPA")
    with pytest.raises(UnknownNameError, match="unknown attention backend 'SDPA'; known: DOUBLED_TEST, "):
        fastvideo.compile(toy.build(1), device="cpu")


def test_empty_variables_ask_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_ATTENTION_BACKEND", "")
    monkeypatch.setenv("FASTVIDEO_DUMP", "")
    settings = resolve_settings(2, None, None, "simulated", "cpu", None, (), True)
    assert (settings.attention_backend, settings.dump) == ("auto", None)


def test_named_backend_that_cannot_run_says_where_and_why() -> None:
    class Whole(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    compiled = fastvideo.compile(Whole().eval(), device="cpu", attention_backend="DOUBLED_TEST")
    with compiled, pytest.raises(BackendUnavailableError) as caught:
        compiled(torch.randn(1, 2, 5, 16))
    assert "attention backend DOUBLED_TEST cannot run the attention at . at" in str(caught.value)
    assert "test_settings.py" in str(caught.value)
    assert "head_dim 16 is too dear" in str(caught.value)


@pytest.mark.parametrize(
    ("num_gpus", "parallel", "executor", "expected"),
    [
        (None, None, "auto", (1, "local")),
        (1, None, "auto", (1, "local")),
        (2, None, "auto", (2, "mp")),
        (None, fastvideo.Parallel(sp=3, tp=2), "auto", (6, "mp")),
        (6, fastvideo.Parallel(sp=3, tp=2), "simulated", (6, "simulated")),
        (None, fastvideo.Parallel(), "auto", (1, "local")),
    ],
)
def test_ranks_and_executor_follow_from_what_is_given(
    num_gpus: int | None, parallel: fastvideo.Parallel | None, executor: str, expected: tuple[int, str]
) -> None:
    settings = resolve_settings(num_gpus, parallel, None, executor, "cpu", None, (), True)
    assert (settings.num_ranks, settings.executor) == expected
