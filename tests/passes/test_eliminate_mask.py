"""``eliminate-mask``: what a mask hides is told from its values, and only what changes no result is rewritten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo.assumption import assume
from fastvideo.passes import eliminate_mask
from fastvideo.passes.eliminate_mask import EliminateMask, MaskKind, mask_kind

from .running import Values, assert_close, count, program, random_values, run_passes, run_whole

LENGTHS = torch.tensor([3, 5])
PADDED = torch.arange(6) < LENGTHS[:, None]  # [batch, keys]
KEYS = PADDED[:, None, None]
TOKENS = PADDED[:, None, None] & PADDED[:, None, :, None]
FIRST_ROW_BLIND = PADDED[:, None, None].clone()
FIRST_ROW_BLIND[0] = False


def additive(mask: Tensor, hidden: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, hidden)


@pytest.mark.parametrize("chunk", [1 << 28, 7])
@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (torch.ones(2, 1, 6, 6, dtype=torch.bool), MaskKind.ALL_SEEN),
        (torch.zeros(6, 6), MaskKind.ALL_SEEN),
        (KEYS, MaskKind.FIRST_KEYS),
        (KEYS.expand(2, 3, 6, 6), MaskKind.FIRST_KEYS),
        (additive(KEYS, -torch.inf), MaskKind.FIRST_KEYS),
        (additive(KEYS, torch.finfo(torch.bfloat16).min, torch.bfloat16), MaskKind.FIRST_KEYS),
        (additive(KEYS, torch.finfo(torch.float16).min, torch.float16), MaskKind.ANY),  # scores can be as low
        (additive(KEYS, -10000.0), MaskKind.ANY),
        (additive(KEYS, 1.0), MaskKind.ANY),
        (TOKENS, MaskKind.FIRST_TOKENS),
        (additive(TOKENS, torch.finfo(torch.float32).min), MaskKind.ANY),  # such queries see all keys alike
        (TOKENS | (torch.arange(6) == 0), MaskKind.ANY),
        (KEYS.flip(-1), MaskKind.ANY),
        (KEYS & (torch.arange(6) != 1), MaskKind.ANY),
        (torch.ones(6, 6, dtype=torch.bool).tril(), MaskKind.ANY),
        (torch.stack([KEYS[0], KEYS[1]], 1).expand(1, 2, 1, 6), MaskKind.ANY),  # heads see other keys
        (FIRST_ROW_BLIND, MaskKind.ANY),
    ],
)
def test_kind_of_a_mask(mask: Tensor, kind: MaskKind, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eliminate_mask, "CHUNK", chunk)
    assert MaskKind(int(mask_kind(mask, lengths_taken=True))) is kind
    without_lengths = kind if kind is MaskKind.ALL_SEEN else MaskKind.ANY
    assert MaskKind(int(mask_kind(mask, lengths_taken=False))) is without_lengths


def attention_under(mask: Tensor, rest: str = "None, False") -> tuple[ir.Program, Values]:
    """Two attentions whose equal masks are computed apart."""
    size = ", ".join(map(str, mask.shape))
    kind = {torch.bool: "bool", torch.float32: "f32"}[mask.dtype]
    before = program(
        f"""
        %q : f32[2, 4, 6, 8] = input
        %k : f32[2, 2, 6, 8] = input
        %mask : {kind}[{size}] = input
        %mask_1 : {kind}[{size}] = aten.clone.default(%mask)
        %first : f32[2, 4, 6, 8] = fv.attention(%q, %k, %k, %mask_1, {rest})
        %mask_2 : {kind}[{size}] = aten.clone.default(%mask)
        %second : f32[2, 4, 6, 8] = fv.attention(%first, %k, %k, %mask_2, {rest})
        return (%first, %second)"""
    )
    params, (q, k, _) = random_values(before)
    return before, (params, [q, k, mask])


def eliminated(before: ir.Program, values: Values, **options: Any) -> ir.Program:
    passes, _ = assume(before, [EliminateMask(**options)], lambda observer: run_whole(observer, values))
    return run_passes(before, passes)


def masks_of(program: ir.Program) -> set[str]:
    sites = [node for node in program.nodes if node.target is torch.ops.fv.attention.default]
    return {str(ir.tensor_type(node.args[3])) if isinstance(node.args[3], torch.fx.Node) else "none" for node in sites}


@pytest.mark.parametrize(
    ("mask", "becomes"),
    [
        (torch.ones(2, 1, 6, 6, dtype=torch.bool), "none"),
        (torch.zeros(6, 6), "none"),
        (KEYS, "i32[2]"),
        (KEYS[:1], "i32[2]"),
        (additive(KEYS, -torch.inf), "i32[2]"),
        (TOKENS, "i32[2]"),
        (KEYS.flip(-1), "bool[2, 1, 1, 6]"),
    ],
)
def test_numbers_stay_where_a_mask_goes(mask: Tensor, becomes: str) -> None:
    before, values = attention_under(mask)
    after = eliminated(before, values)
    assert masks_of(after) == {becomes}
    assert_close(run_whole(after, values), run_whole(before, values))
    assert count(after, torch.ops.aten.sum.dim_IntList) == (becomes == "i32[2]"), "equal masks share their lengths"


def test_assumption_holds_for_masks_of_the_same_kind_alone() -> None:
    before, values = attention_under(KEYS)
    _, assumption = assume(before, [EliminateMask()], lambda observer: run_whole(observer, values))
    assert assumption is not None and assumption.inputs_read == (2,)
    shorter = (torch.arange(6) < torch.tensor([[1], [2]]))[:, None, None]
    for mask, holds in ((KEYS, True), (shorter, True), (KEYS.flip(-1), False), (torch.ones_like(KEYS), False)):
        assert assumption.holds({}, [*values[1][:2], mask], torch.device("cpu")) is holds


def test_lengths_follow_the_mask_of_each_call() -> None:
    before, values = attention_under(KEYS)
    after = eliminated(before, values)
    other = values[0], [*values[1][:2], (torch.arange(6) < torch.tensor([[4], [1]]))[:, None, None]]
    assert_close(run_whole(after, other), run_whole(before, other))


@pytest.mark.parametrize(
    ("rest", "options"),
    [("None, False", {"backend": "SAGE_ATTN"}), ("None, False", {"device": "cuda"}), ("None, True", {})],
    ids=["backend takes no lengths", "no backend does in fp32", "causal as well"],
)
def test_mask_is_kept_where_lengths_are_not_taken(rest: str, options: dict[str, Any]) -> None:
    before, values = attention_under(KEYS, rest)
    assert masks_of(eliminated(before, values, **options)) == {"bool[2, 1, 1, 6]"}
    whole = values[0], [*values[1][:2], torch.ones_like(KEYS)]
    assert masks_of(eliminated(before, whole, **options)) == {"none"}


def test_mask_of_weights_is_kept() -> None:
    before = program(
        """
        %w : bool[6, 6] = param "seen" buffer
        %q : f32[2, 4, 6, 8] = input
        %out : f32[2, 4, 6, 8] = fv.attention(%q, %q, %q, %w, None, False)
        return (%out)"""
    )
    values = random_values(before)
    values[0]["seen"] = torch.ones(6, 6, dtype=torch.bool)  # until the weights are updated
    after = eliminated(before, values)
    assert masks_of(after) == {"bool[6, 6]"}
    assert assume(before, [EliminateMask()], lambda observer: run_whole(observer, values))[1] is None


def test_masks_stay_where_no_values_are_known() -> None:
    before, _ = attention_under(KEYS)
    assert masks_of(run_passes(before, [EliminateMask()])) == {"bool[2, 1, 1, 6]"}


def test_kinds_of_other_masks_are_refused() -> None:
    before, _ = attention_under(KEYS)
    with pytest.raises(ir.errors.InvalidArgumentError, match="is told the kinds of 2 masks; there are 1"):
        run_passes(before, [EliminateMask(kinds=(1, 1))])


def test_two_passes_cannot_both_ask_of_the_inputs() -> None:
    with pytest.raises(
        ir.errors.InvalidArgumentError, match="eliminate-mask and eliminate-mask ask of the inputs' values"
    ):
        assume(program("%x : f32[2] = input\n return (%x)"), [EliminateMask(), EliminateMask()], lambda observer: [])
