"""``auto`` with measurements: the fastest backend is taken, each is timed once, and what failed is not taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastvideo.backends import attention
from fastvideo.backends.attention import measured, registry
from fastvideo.kernel_times import KernelTimes
from fastvideo_ir import TensorType
from fastvideo_ir.errors import BackendUnavailableError


class _Timed(attention.AttentionBackend):
    def supports(self, site: attention.AttentionSite) -> attention.Support:
        return attention.Yes(preferred=self.name == "FIRST")

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        raise AssertionError("nothing is computed here")


class _First(_Timed):
    name = "FIRST"


class _Second(_Timed):
    name = "SECOND"


class _Refuses(_Timed):
    name = "REFUSES"

    def supports(self, site: attention.AttentionSite) -> attention.Support:
        return attention.No("it never does")


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    listed = (_Refuses(), _Second(), _First())  # the last one is asked first
    monkeypatch.setattr(registry, "_registered", {backend.name: (backend, None) for backend in listed})
    yield


def site(
    heads: int = 4, tokens: int = 100, kv_heads: int = 4, mask: TensorType | None = None
) -> attention.AttentionSite:
    def kind(count: int) -> TensorType:
        return TensorType(torch.bfloat16, (2, count, tokens, 64))

    return attention.AttentionSite(kind(heads), kind(kv_heads), kind(kv_heads), mask, None, False, "cuda")


class Clock:
    """A timer that knows the times, and notes what it was asked."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.asked = seconds, list[str]()

    def __call__(self, backend: attention.AttentionBackend, at: attention.AttentionSite) -> float:
        self.asked.append(backend.name)
        return self.seconds[backend.name]


def fastest(clock: Callable[..., float], kept: dict[str, dict[str, float]] | None = None) -> attention.Fastest:
    return attention.Fastest(clock, "a GPU", {} if kept is None else kept)


def test_fastest_is_taken_and_the_others_say_by_how_much() -> None:
    choice = attention.choose(site(), fastest=fastest(Clock(FIRST=3e-3, SECOND=2e-3)))
    assert choice.backend.name == "SECOND"
    assert choice.refusals == (
        ("REFUSES", "it never does"),
        ("FIRST", "1.50 × the time of SECOND, as measured"),
    )


def test_without_measurements_the_first_preferred_one_is_taken() -> None:
    assert attention.choose(site()).backend.name == "FIRST"


def test_equal_times_leave_the_order() -> None:
    assert attention.choose(site(), fastest=fastest(Clock(FIRST=1.0, SECOND=1.0))).backend.name == "FIRST"


def test_kernel_that_fails_is_not_taken() -> None:
    choice = attention.choose(site(), fastest=fastest(Clock(FIRST=math.inf, SECOND=9.0)))
    assert choice.backend.name == "SECOND" and choice.refusals[-1] == (
        "FIRST",
        "its kernel failed when it was measured",
    )
    every = fastest(Clock(FIRST=math.inf, SECOND=math.inf))
    assert attention.choose(site(), fastest=every).backend.name == "FIRST"  # then it is the order again


def test_sites_that_differ_in_batch_and_heads_share_one_measurement() -> None:
    clock = Clock(FIRST=2.0, SECOND=1.0)
    kept: dict[str, dict[str, float]] = {}
    for heads in (4, 24, 4):
        attention.choose(site(heads, kv_heads=heads), fastest=fastest(clock, kept))
    assert clock.asked == ["FIRST", "SECOND"] and len(kept) == 1
    mask = TensorType(torch.bool, (1, 1, 100, 100))
    for other in (site(tokens=101), site(kv_heads=2), replace(site(), causal=True), site(mask=mask)):
        attention.choose(other, fastest=fastest(clock, kept))
    assert len(kept) == 5
    attention.choose(site(), fastest=attention.Fastest(clock, "another GPU", kept))
    assert len(kept) == 6 and len(clock.asked) == 12


def test_backend_that_was_installed_since_is_measured_alone() -> None:
    kept = {fastest(Clock()).key(site()): {"FIRST": 2.0}}
    clock = Clock(SECOND=1.0)
    assert attention.choose(site(), fastest=fastest(clock, kept)).backend.name == "SECOND"
    assert clock.asked == ["SECOND"]


def test_nothing_is_measured_where_there_is_no_choice() -> None:
    clock = Clock()
    assert attention.choose(site(), among=["SECOND"], fastest=fastest(clock)).backend.name == "SECOND"
    assert attention.choose(site(), "FIRST", fastest=fastest(clock)).backend.name == "FIRST"
    with pytest.raises(BackendUnavailableError, match="REFUSES: it never does"):
        attention.choose(site(), among=["REFUSES"], fastest=fastest(clock))
    assert clock.asked == []


def test_measured_call_has_fewer_heads_where_they_are_long() -> None:
    assert measured.measured_site(site()) == ((1, 4, 100, 64),) * 3
    assert measured.measured_site(site(24, 100, 8))[:2] == ((1, 24, 100, 64), (1, 8, 100, 64))
    assert measured.measured_site(site(24, 200_000, 24)) == ((1, 1, 200_000, 64),) * 3
    assert measured.measured_site(site(24, 200_000, 8))[:2] == ((1, 3, 200_000, 64), (1, 1, 200_000, 64))


def test_times_outlive_the_process_where_there_is_a_cache_directory(tmp_path: Path) -> None:
    for directory, asked in ((tmp_path, 2), (tmp_path, 0), (None, 2), (tmp_path / "other", 2)):
        clock = Clock(FIRST=math.inf, SECOND=1.0)
        choice = attention.choose(site(), fastest=attention.Fastest(clock, "a GPU", KernelTimes(directory)))
        assert (choice.backend.name, len(clock.asked)) == ("SECOND", asked)


def test_first_queries_tell_a_kernel_that_is_wrong() -> None:
    q, k, v = (torch.randn(1, 4, 100, 64) for _ in "qkv")
    for at in (site(), replace(site(), causal=True)):
        right = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=at.causal)
        assert measured._is_attention(right, q, k, v, None, at)
        assert not measured._is_attention(right.roll(1, 2), q, k, v, None, at)
        assert not measured._is_attention(right * torch.nan, q, k, v, None, at)
