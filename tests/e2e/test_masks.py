"""Padded prompts: masks go where they hide nothing or the last tokens alone, and every call still equals eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
from fastvideo.specialization import RecentAnswers

from ..models import case
from ..zoo.zoo import ZOO

DROPPED, KEPT = "mask dropped", "kept"
LENGTHS, TOKENS = "as a length of each row: it hides the last keys alone", "and everything from some queries"


def assert_equals_eager(compiled: Any, model: nn.Module, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        expected, found = model(**inputs)[0], compiled(**inputs)[0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def latest(compiled: Any) -> str:
    """What the program that served the last call assumes of masks."""
    assumption = compiled.report.programs[-1].assumption
    return "" if assumption is None else "\n".join(assumption.meanings)


def test_padding_behind_video_and_text() -> None:
    dit = case("hunyuan")
    model = dit.build()
    with fastvideo.compile(model, device="cpu", verify=False) as compiled:
        inputs = dit.inputs(0, batch=2)
        mask = inputs["encoder_attention_mask"]
        for lengths in ([8, 7], [3, 10]):  # written in place: the tensor is the same, its values are others
            mask.copy_(torch.arange(10) < torch.tensor(lengths)[:, None])
            assert_equals_eager(compiled, model, inputs)
            assert f"4 × mask {LENGTHS}" in latest(compiled) and f"1 × mask {KEPT}" in latest(compiled)
        assert len(compiled.programs) == 1, "other lengths need no other program"
        mask.fill_(1)
        assert_equals_eager(compiled, model, inputs)
        assert f"4 × {DROPPED}" in latest(compiled) and f"1 × {DROPPED}" in latest(compiled)
        mask[0, 4:] = 0
        assert_equals_eager(compiled, model, inputs)
        text = compiled.explain()
    assert f"4 × {DROPPED}: it hides nothing" in text
    assert "as the values of encoder_attention_mask say, looked at whenever they may have changed" in text


def test_padded_queries_of_a_joint_mask_are_zero_as_in_eager() -> None:
    dit = next(case for case in ZOO if case.name == "HunyuanVideo15").at(2)
    model, inputs = dit.build(), dit.inputs(0)
    with fastvideo.compile(model, device="cpu", verify=False) as compiled:
        assert_equals_eager(compiled, model, inputs)
        assert TOKENS in latest(compiled)


def test_mask_that_hides_by_a_large_number_is_kept() -> None:
    dit = case("ltx")
    model = dit.build()
    with fastvideo.compile(model, device="cpu", verify=False) as compiled:
        inputs = dit.inputs(0, batch=2)
        assert_equals_eager(compiled, model, inputs)
        assert KEPT in latest(compiled)
        inputs["encoder_attention_mask"].fill_(1)
        assert_equals_eager(compiled, model, inputs)
        assert DROPPED in latest(compiled)


class TextFirst(nn.Module):
    """Joint attention with the text in front, so that its padding lies in the middle; and one to the text alone."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, video: Tensor, text: Tensor, joint: Tensor, cross: Tensor) -> tuple[Tensor]:
        tokens = torch.cat([text, video], 1)
        q, k, v = (x.unflatten(-1, (4, 4)).transpose(1, 2) for x in self.qkv(tokens).chunk(3, -1))
        seen = F.pad(joint.bool(), (0, video.shape[1]), value=True)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        keys = text.unflatten(-1, (4, 4)).transpose(1, 2)
        return (F.scaled_dot_product_attention(out, keys, keys, attn_mask=cross[:, None, None].bool()),)


def inputs_of(joint: list[int], cross: list[int]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    masks = {"joint": torch.tensor([joint, joint]), "cross": torch.tensor([cross, cross])}
    return {"video": torch.randn(2, 11, 16), "text": torch.randn(2, 4, 16), **masks}


@pytest.mark.parametrize("ranks", [1, 3])
def test_masks_of_every_kind_are_told_apart_up_to_a_limit(ranks: int) -> None:
    model = TextFirst().eval()
    executor = "local" if ranks == 1 else "simulated"
    seen, last, first = [1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]
    calls = [(seen, seen), (last, seen), (seen, last), (last, last), (seen, first)]
    with fastvideo.compile(model, num_gpus=ranks, executor=executor, device="cpu", verify=False) as compiled:
        for number, masks in enumerate(calls, 1):
            assert_equals_eager(compiled, model, inputs_of(*masks))
            assert len(compiled.programs) == number
        assert latest(compiled) == "", "kinds that change with every call get one program for all"
        for masks in ((first, last), (last, [1, 0, 1, 0]), *calls):
            assert_equals_eager(compiled, model, inputs_of(*masks))
        assert len(compiled.programs) == len(calls)


def test_padding_in_the_middle_keeps_its_mask() -> None:
    model = TextFirst().eval()
    with fastvideo.compile(model, device="cpu", verify=False) as compiled:
        assert_equals_eager(compiled, model, inputs_of([1, 1, 0, 0], [1, 1, 1, 0]))
        assert KEPT in latest(compiled) and LENGTHS in latest(compiled)


def test_copies_of_masks_are_answered_from_memory_and_others_are_not() -> None:
    answers, asked = RecentAnswers(), 0

    def all_seen(mask: Tensor) -> bool:
        def ask() -> bool:
            nonlocal asked
            asked += 1
            return bool(mask.all())

        return answers.of([mask], ask)

    seen, hidden = torch.ones(2, 4), torch.ones(2, 4).tril(2)
    assert [all_seen(mask) for mask in (seen, hidden, seen.clone(), hidden.clone())] == [True, False, True, False]
    assert asked == 2
    hidden.fill_(1)
    assert all_seen(hidden) and asked == 2, "it is the values that count"
    large = torch.ones(1 << 15)
    assert all_seen(large) and all_seen(large) and asked == 4, "large tensors are not copied"
