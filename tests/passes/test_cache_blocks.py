"""First-block caching: what is computed and what is not, in which calls, on one rank and on several."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError
from tests.e2e import toy
from tests.e2e.measuring import count_work, errors_of
from tests.models import case

DEPTH = 5
THRESHOLD = 0.1
Inputs = dict[str, Any]


def steps(changes: list[float], seed: int = 0, batch: int = 1) -> Iterator[Inputs]:
    """Inputs that move away from the first ones, by so much a step."""
    given = toy.inputs(seed, batch)
    direction = torch.randn(given["x"].shape, generator=torch.Generator().manual_seed(9))
    moved = 0.0
    for change in changes:
        moved += change
        yield {**given, "x": given["x"] + moved * direction}


def compiled_toy(cache: str = f"first-block:{THRESHOLD}", **options: Any) -> fastvideo.CompiledModel:
    return fastvideo.compile(toy.build(DEPTH), device="cpu", cache=cache, **options)


def counts(compiled: fastvideo.CompiledModel) -> list[tuple[int, int]]:
    found = [program.cache for program in compiled.report.programs]
    return [(cache.computed, cache.skipped) for cache in found if cache is not None]


class ByHand:
    """First-block caching written by hand for the toy model."""

    def __init__(self) -> None:
        self.model = toy.build(DEPTH)
        self.first: Tensor | None = None
        self.rest: Tensor | None = None

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        model = self.model
        condition = nn.functional.silu(model.time(timestep[:, None].to(x.dtype) / 1000))
        before = model.embed(x)
        hidden = entry = model.blocks[0](before, context, condition)
        added = entry - before
        then = self.first
        change = (added - then).abs().sum((1, 2)) / then.abs().sum((1, 2)) if then is not None else None
        if change is not None and self.rest is not None and bool((change < THRESHOLD).all()):
            hidden = entry + self.rest
        else:
            for block in model.blocks[1:]:
                hidden = block(hidden, context, condition)
            self.first, self.rest = added, hidden - entry
        return model.head(hidden) + model.offset


CHANGES = [0.0, 0.004, 0.004, 0.2, 0.004, 0.0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parallel": fastvideo.Parallel(sp=3), "executor": "simulated"},
        {"parallel": fastvideo.Parallel(cfg=2), "executor": "simulated"},
        {"num_gpus": 2, "executor": "mp"},
    ],
    ids=["one", "sp3", "cfg2", "mp"],
)
def test_every_call_computes_what_caching_by_hand_does(options: dict[str, Any]) -> None:
    batch, by_hand = 2, ByHand()
    with compiled_toy(**options) as compiled, torch.no_grad():
        decisions = []
        for given in steps(CHANGES, batch=batch):
            found, wanted = compiled(**given).sample, by_hand(**given)
            assert max(errors_of([found], [wanted])) < 1e-5
            decisions.append(counts(compiled)[0])
        assert decisions == [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4)]
        assert "threshold 0.1: 2 calls computed all, 4 skipped" in compiled.explain()


@pytest.mark.parametrize("ranks", [1, 3])
def test_skipped_calls_do_the_work_of_one_block(ranks: int) -> None:
    with compiled_toy(num_gpus=ranks, executor="simulated") as compiled:
        given = next(steps([0.0]))
        compiled(**given)
        compiled.reset_cache()
        whole, skipped = (count_work(lambda: compiled(**given)).total.total() for _ in range(2))
    assert skipped / whole == pytest.approx(1 / DEPTH, abs=0.05)


def test_a_reset_forgets_and_contexts_keep_apart() -> None:
    first, second = next(steps([0.0])), next(steps([0.0], seed=1))
    with compiled_toy() as compiled, torch.no_grad():
        exact = {0: compiled(**first).sample}
        compiled.reset_cache()
        exact[1] = compiled(**second).sample
        compiled.reset_cache()
        for _ in range(3):  # guidance in two calls a step
            with compiled.cache_context("cond"):
                found = compiled(**first).sample
            with compiled.cache_context("uncond"):
                other = compiled(**second).sample
            assert max(errors_of([found, other], [exact[0], exact[1]])) < 1e-5
        assert counts(compiled) == [(2, 4)], "each context computes once, then finds its own state again"
        compiled.reset_cache()
        compiled(**first)
        assert counts(compiled) == [(1, 0)]


def test_one_changed_sample_of_a_batch_is_enough() -> None:
    quiet = toy.inputs(batch=2)
    loud = {**quiet, "x": torch.cat([quiet["x"][:1], quiet["x"][1:] + 1])}
    with compiled_toy() as compiled:
        compiled(**quiet)
        compiled(**quiet)
        compiled(**loud)
        assert counts(compiled) == [(2, 1)]


def test_new_weights_begin_anew() -> None:
    model = toy.build(DEPTH)
    with fastvideo.compile(model, device="cpu", cache="first-block:0.5") as compiled, torch.no_grad():
        given = toy.inputs()
        compiled(**given)
        model.blocks[3].mlp[0].weight.mul_(2)
        compiled.update_weights()
        assert max(errors_of([compiled(**given).sample], [model(**given).sample])) < 1e-5


def test_two_kinds_of_blocks_are_cached_each_with_its_streams() -> None:
    """Flux: blocks with two streams, then blocks with one."""
    built = case("flux")
    model = _deeper(built.build())
    given = built.inputs(0)
    with (
        fastvideo.compile(model, 2, device="cpu", executor="simulated", cache="first-block:0.05") as compiled,
        torch.no_grad(),
    ):
        wanted = model(**given)[0]
        assert max(errors_of([compiled(**given)[0]], [wanted])) < 1e-4
        work = [count_work(lambda: compiled(**given)).total.total()]
        compiled.reset_cache()
        work.append(count_work(lambda: compiled(**given)).total.total())
        assert max(errors_of([compiled(**given)[0]], [wanted])) < 1e-4
    assert work[0] < 0.45 * work[1], "one block of four of each kind is left"


def _deeper(model: nn.Module) -> nn.Module:
    """Four blocks of each kind, with weights of their own."""
    for name in ("transformer_blocks", "single_transformer_blocks"):
        blocks = getattr(model, name)
        while len(blocks) < 4:
            extra = deepcopy(blocks[0])
            with torch.no_grad():
                for parameter in extra.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            blocks.append(extra)
    return model


def test_what_cannot_be_cached_is_refused() -> None:
    with (
        fastvideo.compile(toy.build(1), device="cpu", cache="first-block:0.1") as compiled,
        pytest.raises(InvalidArgumentError, match="no chain of at least three equal blocks"),
    ):
        compiled(**toy.inputs())
    for wrong in ("first-block", "first-block:x", "first-block:0", "first-block:1.5"):
        with pytest.raises(InvalidArgumentError, match="has no threshold between 0 and 1"):
            compiled_toy(cache=wrong)
    with pytest.raises(UnknownNameError, match="unknown cache 'tea'; known: first-block"):
        compiled_toy(cache="tea:0.1")
    with pytest.raises(InvalidArgumentError, match="has no effect: the passes that were given lack 'cache-blocks'"):
        compiled_toy(passes="canonicalize")


def test_comparison_tells_what_the_cache_did_to_this_call() -> None:
    with compiled_toy() as compiled:
        errors = [compiled.compare_exact(**given).outputs[0].relative_l2 for given in steps([0.0, 0.004])]
        assert compiled.compare_exact(**next(steps([0.0]))).settings == ("cache=first-block:0.1",)
    assert errors[0] == 0 < errors[1] < 0.01
