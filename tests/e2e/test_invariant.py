"""``invariant=``: what follows from a prompt is computed once for it, on every rank, and never used for another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
from fastvideo_ir.errors import InvalidArgumentError

from . import toy
from .measuring import count_work

PROJECTED = 2 * toy.TEXT * toy.WIDTH * 2 * toy.WIDTH * 2
"""FLOPs of keys and values of the context, in both blocks."""


def compiled_toy(model: nn.Module, ranks: int, **settings: Any) -> Any:
    executor = settings.pop("executor", "local" if ranks == 1 else "simulated")
    return fastvideo.compile(
        model, num_gpus=ranks, executor=executor, device="cpu", invariant=("context",), verify=False, **settings
    )


class Calls:
    """Calls the model with new latents, checks the result, and counts the work."""

    def __init__(self, model: nn.Module, compiled: Any) -> None:
        self._model, self._compiled, self._seed = model, compiled, 0
        compiled(**toy.inputs())  # whose capture is not to be counted

    def __call__(self, context: Tensor) -> int:
        self._seed += 1
        inputs = {**toy.inputs(self._seed), "context": context}
        found: list[Tensor] = []
        work = count_work(lambda: found.append(self._compiled(**inputs).sample))
        with torch.no_grad():
            expected = self._model(**inputs).sample
        assert float((found[0] - expected).abs().max() / expected.abs().max()) < 1e-5
        return sum(work.total.values())


@pytest.mark.parametrize("ranks", [1, 3])
def test_projections_of_the_context_are_computed_once(ranks: int) -> None:
    model = toy.build()
    with compiled_toy(model, ranks) as compiled:
        call, first, second, third = Calls(model, compiled), *(toy.inputs(seed)["context"] for seed in (11, 12, 13))
        whole = call(first)
        kept = call(first)
        assert whole - kept >= PROJECTED
        assert [call(second), call(first), call(second)] == [whole, kept, kept], "two prompts alternate"
        assert [call(third), call(second), call(first)] == [whole, kept, whole], "the last two are kept"
        first.mul_(2)
        assert [call(first), call(first)] == [whole, kept], "written in place"
        assert call(first.clone()) == whole, "equal values are not looked for"
        compiled.reset_cache()
        assert call(first) == whole
        text = compiled.explain()
    assert "of context" in text and "per rank of the memory above, for each of the last 2" in text


def test_without_the_word_nothing_is_kept() -> None:
    model = toy.build()
    with fastvideo.compile(model, device="cpu", verify=False) as compiled:
        call, context = Calls(model, compiled), toy.inputs(11)["context"]
        assert call(context) == call(context)
        assert compiled.report.programs[0].invariant is None


def test_new_weights_are_used_at_once() -> None:
    model = toy.build()
    with compiled_toy(model, 1) as compiled:
        call, context = Calls(model, compiled), toy.inputs(11)["context"]
        call(context)
        with torch.no_grad():
            model.blocks[0].cross_attention.key_value.weight.mul_(2)
        compiled.update_weights()
        call(context)


def test_inference_tensors_have_no_versions_and_are_never_taken_for_the_same() -> None:
    model = toy.build()
    with compiled_toy(model, 1) as compiled, torch.inference_mode():
        context = toy.inputs(11)["context"]
        call = Calls(model, compiled)
        whole = call(context)
        context.mul_(2)
        assert call(context) == whole


def test_worker_processes_keep_their_own() -> None:
    model = toy.build()
    with compiled_toy(model, 2, executor="mp") as compiled:
        call, contexts = Calls(model, compiled), [toy.inputs(seed)["context"] for seed in (11, 12)]
        whole = [call(context) for context in contexts]
        assert all(call(context) < before for context, before in zip(contexts, whole, strict=True))


class Summary(nn.Module):
    """Returns what follows from the context alone, beside the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        summary = self.linear(context)
        return x + summary, summary[:, :2]


def test_caller_may_write_to_what_is_returned() -> None:
    model = Summary().eval()
    x, context = torch.randn(3, 4), torch.randn(3, 4)
    with compiled_toy(model, 1) as compiled, torch.no_grad():
        for _ in range(3):
            for found, expected in zip(compiled(x, context), model(x, context), strict=True):
                torch.testing.assert_close(found, expected)
                found.zero_()


def test_passes_that_keep_nothing_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="has no effect: the passes that were given lack 'split-invariant'"):
        compiled_toy(toy.build(), 1, passes="canonicalize,recognize-attention,select-attention-backend")
