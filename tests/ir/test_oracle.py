"""Every rule in the registry is true, and none is empty talk."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

import fastvideo.backends.attention  # noqa: F401  (its ops have the rule of attention)
from fastvideo_ir.factors import FactorRule, RuleBuilder, product
from fastvideo_ir.graph import on_device
from fastvideo_ir.ops import OpDef, registry
from fastvideo_ir.ops.attention import attention_rule, is_exact
from fastvideo_ir.ops.define import operand_shapes, result_shape, whole_rule
from fastvideo_ir.ops.matmul import linear_rule
from tests.ir.cases import ALL, Case, Draw
from tests.ir.cases.attention import attention_cases
from tests.ir.cases.case import call, case
from tests.ir.oracle import CPU, RuleError, check_case, check_pairs, instance

SHAPES = 3
"""Random shapes per case."""


def ops_with_rules() -> dict[str, OpDef]:
    """What this package registers; other packages check their ops with :func:`check_case` in their own tests."""
    return {
        name: op
        for name, op in registry.ops.items()
        if op.rule and op.rule is not whole_rule and op.rule.__module__.startswith("fastvideo_ir.")
    }


def cases_by_op() -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for one in ALL:
        cases.setdefault(one.op, []).append(one)
    for name, op in registry.ops.items():
        if op.rule is attention_rule and name not in cases:  # the op of an attention backend
            cases[name] = attention_cases(name, exact=is_exact(op.target))
    return cases


def seeds(name: str) -> range:
    first = zlib.crc32(name.encode()) % 10_000
    return range(first, first + SHAPES)


def test_every_rule_has_a_case() -> None:
    missing = set(ops_with_rules()) - set(cases_by_op())
    assert not missing, f"ops without a case in tests/ir/cases: {sorted(missing)}"


@pytest.mark.torch("2.13")
def test_every_case_has_a_rule() -> None:
    assert not set(cases_by_op()) - set(ops_with_rules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ops_with_rules()))
def test_rule_agrees_with_the_op(name: str) -> None:
    for one in cases_by_op()[name]:
        check_case(registry.ops[name], one, seeds(name))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ops_with_rules()))
def test_rule_agrees_with_the_op_over_two_axes(name: str) -> None:
    for one in cases_by_op()[name]:
        check_pairs(registry.ops[name], one, seeds(name)[:1])


@pytest.mark.parametrize("name", sorted(name for name, op in ops_with_rules().items() if op.flops))
def test_flops_are_those_that_torch_counts(name: str) -> None:
    for one in cases_by_op()[name]:
        drawn = instance(registry.ops[name], one, Draw(0))
        made = one.make(Draw(0))
        with FlopCounterMode(display=False) as counter:
            drawn.op.target(*on_device(made.args, CPU), **on_device(made.kwargs, CPU))
        assert drawn.op.flops is not None
        if counter.get_total_flops():  # torch counts none for mv, dot and einsums without a product
            assert drawn.op.flops(drawn.node) == counter.get_total_flops(), made


def wrong(name: str, rule: Callable[[fx.Node], FactorRule], **changes: object) -> tuple[OpDef, list[Case]]:
    op = replace(registry.ops[name], rule=rule, **changes)  # type: ignore[arg-type]
    return op, cases_by_op()[name]


def refusal(op: OpDef, cases: list[Case]) -> str:
    with pytest.raises(RuleError) as caught:
        for one in cases:
            check_case(op, one, range(4))
    return str(caught.value)


def all_parallel(node: fx.Node) -> FactorRule:
    builder = RuleBuilder()
    dims = builder.dims(result_shape(node))
    return builder.rule([dims], [dims])


def test_softmax_over_a_sharded_dim_is_caught() -> None:
    message = refusal(*wrong("aten.softmax.int", all_parallel))
    assert "aten.softmax.int: (f64[" in message
    assert "differs from the op on whole operands by up to" in message


def test_bias_that_is_added_on_every_rank_is_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        return replace(linear_rule(node), addends=())

    assert "{sum:x}" in refusal(*wrong("aten.linear.default", rule))


def test_partial_sums_through_a_nonlinear_op_are_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        return replace(all_parallel(node), linear=((0,),))

    assert "{sum:x}" in refusal(*wrong("aten.relu.default", rule))


def test_sum_that_is_called_parallel_is_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        (b, s, c) = operand_shapes(node)[0]
        builder = RuleBuilder()
        dims = builder.dims((b, s, c))
        return builder.rule([dims], [[dims[0], dims[2]]])

    sums = case("sum.dim_IntList", lambda d: call(d.real("bsc"), [1]))
    assert "should hold the same, and do not" in refusal(wrong("aten.sum.dim_IntList", rule)[0], [sums])


def test_factors_of_a_reshape_in_the_wrong_order_are_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        b, h, c = result_shape(node)
        builder = RuleBuilder()
        batch, heads, channels = builder.dims((b, h, c))
        return builder.rule([[batch, product(channels, heads)]], [[batch, heads, channels]])

    split = case("reshape.default", lambda d: call(d.real("b", 24), [d.size("b"), 4, 6]))
    assert "differs" in refusal(wrong("aten.reshape.default", rule)[0], [split])


def test_missing_localize_function_is_caught() -> None:
    rule = registry.ops["aten.view.default"].rule
    assert rule is not None
    assert "cannot run it" in refusal(*wrong("aten.view.default", rule, localize=None))  # type: ignore[arg-type]


def test_rule_that_does_not_fit_the_shapes_is_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        builder = RuleBuilder()
        dims = builder.dims(operand_shapes(node)[0])
        return builder.rule([dims], [dims])

    transposed = case("permute.default", lambda d: call(d.real(2, 3), [1, 0]))
    assert "the rule gives a tensor (2, 3), it is f64[3, 2]" in refusal(
        wrong("aten.permute.default", rule)[0], [transposed]
    )


@pytest.mark.parametrize(
    "name", ["aten.linear.default", "aten.layer_norm.default", "aten.cat.default", "aten.add.Tensor"]
)
def test_rule_that_allows_nothing_is_caught(name: str) -> None:
    assert "the rule does not allow a shard of dim 0 of the result" in refusal(*wrong(name, whole_rule))


def test_rule_that_lost_its_sum_is_caught() -> None:
    def rule(node: fx.Node) -> FactorRule:
        builder = RuleBuilder()
        shapes = operand_shapes(node)
        batch, out, inner = builder.dims(shapes[0][:-1]), builder.factor(shapes[1][0]), builder.whole(shapes[0][-1])
        return builder.rule([[*batch, inner], [out, inner], *([out] for _ in shapes[2:])], [[*batch, out]])

    assert "a shard of dim 2 of operand 0 with a partial result" in refusal(*wrong("aten.linear.default", rule))


def test_oracle_really_tries_uneven_and_empty_pieces() -> None:
    """Without these, a rule that pads or assumes equal pieces would pass."""
    seen: set[tuple[int, ...]] = set()

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(x.shape))
        return torch.neg(x)

    op = OpDef(spy, "test.neg", rule=all_parallel)
    ran = check_case(op, case("neg.default", lambda d: call(d.real(7, 5)), "01"), range(10))
    assert ran >= 30
    assert any(math.prod(shape) == 0 for shape in seen)
    assert len({shape[0] for shape in seen}) >= 5
