"""``recognize-attention``: many ways to write softmax attention, and near misses that must be left alone."""

from __future__ import annotations

import math

import pytest
import torch

import fastvideo_ir as ir

from .running import assert_same_numbers, count, program, run_passes

QKV = """
%q : {dtype}[2, 4, 5, 8] = input
%k : {dtype}[2, 4, 7, 8] = input
%v : {dtype}[2, 4, 7, 6] = input
%bias : {dtype}[2, 1, 5, 7] = input
%kt : {dtype}[2, 4, 8, 7] = aten.transpose.int(%k, -2, -1)
"""
THREE_DIMS = """
%q : f32[8, 5, 16] = input
%k : f32[8, 7, 16] = input
%v : f32[8, 7, 16] = input
%bias : f32[8, 5, 7] = input
%kt : f32[8, 16, 7] = aten.transpose.int(%k, 1, 2)
"""
SCORES = "%scores : f32[2, 4, 5, 7] = aten.matmul.default(%q, %kt)"
OUT = "%out : f32[2, 4, 5, 6] = aten.matmul.default(%weights, %v)\nreturn (%out)"

STYLES = {
    "plain": (1.0, f"{SCORES}\n%weights : f32[2, 4, 5, 7] = aten.softmax.int(%scores, -1)\n{OUT}"),
    "last dim counted from the front": (
        1.0,
        f"{SCORES}\n%weights : f32[2, 4, 5, 7] = aten.softmax.int(%scores, 3)\n{OUT}",
    ),
    "scaled after": (
        0.25,
        f"""{SCORES}
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%scores, 0.25)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scaled, -1)
        {OUT}""",
    ),
    "divided": (
        1 / math.sqrt(8),
        f"""{SCORES}
        %scaled : f32[2, 4, 5, 7] = aten.div.Tensor(%scores, {math.sqrt(8)})
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scaled, -1)
        {OUT}""",
    ),
    "scaled twice": (
        3 / 4,
        f"""{SCORES}
        %thrice : f32[2, 4, 5, 7] = aten.mul.Tensor(%scores, 3)
        %scaled : f32[2, 4, 5, 7] = aten.div.Tensor(%thrice, 4)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scaled, -1)
        {OUT}""",
    ),
    "scaled before": (
        1.0,
        f"""%half : f32[2, 4, 5, 8] = aten.mul.Tensor(%q, 0.5)
        %scores : f32[2, 4, 5, 7] = aten.matmul.default(%half, %kt)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scores, -1)
        {OUT}""",
    ),
    "mask added": (
        0.25,
        f"""{SCORES}
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%scores, 0.25)
        %biased : f32[2, 4, 5, 7] = aten.add.Tensor(%scaled, %bias)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%biased, -1)
        {OUT}""",
    ),
    "mask first": (
        0.25,
        f"""{SCORES}
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%scores, 0.25)
        %biased : f32[2, 4, 5, 7] = aten.add.Tensor(%bias, %scaled)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%biased, -1)
        {OUT}""",
    ),
}


def attention_of(after: ir.Program) -> torch.fx.Node:
    (node,) = [node for node in after.nodes if node.target is torch.ops.fv.attention.default]
    return node


@pytest.mark.parametrize("style", STYLES)
def test_handwritten_attention_is_recognised_with_its_scale(style: str) -> None:
    scale, body = STYLES[style]
    before = program(QKV.format(dtype="f32") + body)
    after = run_passes(before, "recognize-attention")
    assert attention_of(after).args[4] == pytest.approx(scale)
    assert (attention_of(after).args[3] is not None) == ("mask" in style)
    assert count(after, torch.ops.aten.softmax.int) == count(after, torch.ops.aten.matmul.default) == 0
    assert_same_numbers(before, after)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_softmax_in_fp32_and_back_is_recognised(dtype: str) -> None:
    before = program(
        QKV.format(dtype=dtype)
        + f"""
        %scores : {dtype}[2, 4, 5, 7] = aten.matmul.default(%q, %kt)
        %wide : f32[2, 4, 5, 7] = aten.to.dtype(%scores, !f32)
        %soft : f32[2, 4, 5, 7] = aten.softmax.int(%wide, -1)
        %weights : {dtype}[2, 4, 5, 7] = aten.to.dtype(%soft, !{dtype})
        %out : {dtype}[2, 4, 5, 6] = aten.matmul.default(%weights, %v)
        return (%out)"""
    )
    after = run_passes(before, "recognize-attention")
    assert attention_of(after).args[4] == 1.0
    assert_same_numbers(before, after, tolerance=2e-2)


def test_scaling_and_masking_in_fp32_is_recognised() -> None:
    before = program(
        QKV.format(dtype="bf16")
        + """
        %scores : bf16[2, 4, 5, 7] = aten.matmul.default(%q, %kt)
        %wide : f32[2, 4, 5, 7] = aten.to.dtype(%scores, !f32)
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%wide, 0.25)
        %biased : f32[2, 4, 5, 7] = aten.add.Tensor(%scaled, %bias)
        %soft : f32[2, 4, 5, 7] = aten.softmax.int(%biased, -1)
        %weights : bf16[2, 4, 5, 7] = aten.to.dtype(%soft, !bf16)
        %out : bf16[2, 4, 5, 6] = aten.matmul.default(%weights, %v)
        return (%out)"""
    )
    after = run_passes(before, "recognize-attention")
    assert attention_of(after).args[4] == 0.25
    assert_same_numbers(before, after, tolerance=2e-2)


@pytest.mark.parametrize("mask", [False, True])
def test_batched_matmuls_of_three_dims_are_attention_of_one_head(mask: bool) -> None:
    biased = "%biased : f32[8, 5, 7] = aten.add.Tensor(%scaled, %bias)" if mask else ""
    before = program(
        THREE_DIMS
        + f"""
        %scores : f32[8, 5, 7] = aten.bmm.default(%q, %kt)
        %scaled : f32[8, 5, 7] = aten.mul.Tensor(%scores, 0.25)
        {biased}
        %weights : f32[8, 5, 7] = aten.softmax.int(%{"biased" if mask else "scaled"}, -1)
        %out : f32[8, 5, 16] = aten.bmm.default(%weights, %v)
        return (%out)"""
    )
    after = run_passes(before, "recognize-attention")
    assert ir.tensor_type(attention_of(after)).shape == (8, 1, 5, 16)
    assert_same_numbers(before, after)


SOFTMAX = "%weights : f32[2, 4, 5, 7] = aten.softmax.int(%scores, -1)"
NEAR_MISSES = {
    "softmax over the queries": f"{SCORES}\n%weights : f32[2, 4, 5, 7] = aten.softmax.int(%scores, 2)\n{OUT}",
    "weights used elsewhere": f"""{SCORES}
        {SOFTMAX}
        %out : f32[2, 4, 5, 6] = aten.matmul.default(%weights, %v)
        return (%out, %weights)""",
    "weights changed": f"""{SCORES}
        %soft : f32[2, 4, 5, 7] = aten.softmax.int(%scores, -1)
        %weights : f32[2, 4, 5, 7] = aten.mul.Tensor(%soft, 0.5)
        {OUT}""",
    "scaled by a tensor": f"""{SCORES}
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%scores, %bias)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scaled, -1)
        {OUT}""",
    "mask scaled with the scores": f"""{SCORES}
        %biased : f32[2, 4, 5, 7] = aten.add.Tensor(%scores, %bias)
        %scaled : f32[2, 4, 5, 7] = aten.mul.Tensor(%biased, 0.5)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%scaled, -1)
        {OUT}""",
    "mask added twofold": f"""{SCORES}
        %biased : f32[2, 4, 5, 7] = aten.add.Tensor(%scores, %bias, alpha=2)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%biased, -1)
        {OUT}""",
    "scores from no matmul": f"""%weights : f32[2, 4, 5, 7] = aten.softmax.int(%other, -1)
        {OUT}""",
    "scores clamped": f"""{SCORES}
        %clamped : f32[2, 4, 5, 7] = aten.clamp.default(%scores, -5.0, 5.0)
        %weights : f32[2, 4, 5, 7] = aten.softmax.int(%clamped, -1)
        {OUT}""",
    "scores rounded to a narrower dtype": f"""{SCORES}
        %narrow : bf16[2, 4, 5, 7] = aten.to.dtype(%scores, !bf16)
        %soft : bf16[2, 4, 5, 7] = aten.softmax.int(%narrow, -1)
        %weights : f32[2, 4, 5, 7] = aten.to.dtype(%soft, !f32)
        {OUT}""",
    "softmax in a narrower dtype": f"""{SCORES}
        %soft : bf16[2, 4, 5, 7] = aten.softmax.int(%scores, -1, !bf16)
        %weights : f32[2, 4, 5, 7] = aten.to.dtype(%soft, !f32)
        {OUT}""",
    "values of another dtype than queries": f"""{SCORES}
        %soft : f32[2, 4, 5, 7] = aten.softmax.int(%scores, -1)
        %weights : f64[2, 4, 5, 7] = aten.to.dtype(%soft, !f64)
        %wide : f64[2, 4, 7, 6] = aten.to.dtype(%v, !f64)
        %out : f64[2, 4, 5, 6] = aten.matmul.default(%weights, %wide)
        return (%out)""",
    "mask of a wider dtype": f"""{SCORES}
        %low : f64[2, 1, 5, 7] = aten.to.dtype(%bias, !f64)
        %biased : f64[2, 4, 5, 7] = aten.add.Tensor(%scores, %low)
        %soft : f64[2, 4, 5, 7] = aten.softmax.int(%biased, -1)
        %weights : f32[2, 4, 5, 7] = aten.to.dtype(%soft, !f32)
        {OUT}""",
    "keys shared by the batch": f"""%one : f32[4, 8, 7] = aten.select.int(%kt, 0, 0)
        %scores : f32[2, 4, 5, 7] = aten.matmul.default(%q, %one)
        {SOFTMAX}
        {OUT}""",
}


@pytest.mark.parametrize("near_miss", NEAR_MISSES)
def test_near_miss_is_left_as_it_is(near_miss: str) -> None:
    other = "%other : f32[2, 4, 5, 7] = input\n"
    before = program(other + QKV.format(dtype="f32") + NEAR_MISSES[near_miss])
    after = run_passes(before, "recognize-attention")
    assert count(after, torch.ops.fv.attention.default) == 0
    assert_same_numbers(before, after, tolerance=0)


FUSED_LEFT_ALONE = {
    "with dropout": "%out : f32[2, 4, 5, 6] = aten.scaled_dot_product_attention.default(%q, %k, %v, None, 0.5)",
    "three dims": """
        %a : f32[4, 5, 8] = aten.select.int(%q, 0, 0)
        %b : f32[4, 7, 8] = aten.select.int(%k, 0, 0)
        %out : f32[4, 5, 8] = aten.scaled_dot_product_attention.default(%a, %b, %b)""",
}


@pytest.mark.parametrize("form", FUSED_LEFT_ALONE)
def test_fused_form_that_the_op_cannot_express_is_left_as_it_is(form: str) -> None:
    before = program(QKV.format(dtype="f32") + FUSED_LEFT_ALONE[form] + "\nreturn (%out)")
    after = run_passes(before, "recognize-attention")
    assert count(after, torch.ops.fv.attention.default) == 0
    assert count(after, torch.ops.aten.scaled_dot_product_attention.default) == 1


@pytest.mark.parametrize(("beta", "masked"), [(0, False), (1, True)])
def test_mask_and_scale_in_one_op_are_recognised(beta: int, masked: bool) -> None:
    before = program(
        THREE_DIMS
        + f"""
        %scores : f32[8, 5, 7] = aten.baddbmm.default(%bias, %q, %kt, beta={beta}, alpha=0.25)
        %weights : f32[8, 5, 7] = aten.softmax.int(%scores, -1)
        %out : f32[8, 5, 16] = aten.bmm.default(%weights, %v)
        return (%out)"""
    )
    after = run_passes(before, "recognize-attention")
    assert attention_of(after).args[4] == 0.25
    assert (attention_of(after).args[3] is not None) == masked
    assert count(after, torch.ops.aten.baddbmm.default) == 0
    assert_same_numbers(before, after)


def test_a_mask_that_is_scaled_in_one_op_is_left_alone() -> None:
    before = program(
        THREE_DIMS
        + """
        %scores : f32[8, 5, 7] = aten.baddbmm.default(%bias, %q, %kt, beta=0.5)
        %weights : f32[8, 5, 7] = aten.softmax.int(%scores, -1)
        %out : f32[8, 5, 16] = aten.bmm.default(%weights, %v)
        return (%out)"""
    )
    assert count(run_passes(before, "recognize-attention"), torch.ops.fv.attention.default) == 0


def test_recognised_attention_keeps_its_place_in_the_model() -> None:
    before = program(
        """
        %q : f32[2, 4, 5, 8] = input
        %out : f32[2, 4, 5, 8] = aten.scaled_dot_product_attention.default(%q, %q, %q) loc("block.0" "model.py":7)
        return (%out)"""
    )
    node = attention_of(run_passes(before, "recognize-attention"))
    assert ir.info(node).location == ir.Location("block.0", "model.py", 7)
    assert ir.info(node).provenance == ir.Provenance("recognize-attention", ("out",))
