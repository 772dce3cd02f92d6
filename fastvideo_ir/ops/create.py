"""Ops that make tensors out of numbers. Constants may be made in pieces; sequences and random ones are made whole."""

from __future__ import annotations

from torch import fx

from ..factors import FactorRule, RuleBuilder
from ..graph import bind
from .define import define, operand_shapes, result_shape, whole_rule, with_shape_argument
from .pointwise import linear_rule
from .registry import Trait


def constant_rule(node: fx.Node) -> FactorRule:
    """Every element is the same number: all dims are parallel. A ``new_*`` operand gives its dtype alone."""
    builder = RuleBuilder()
    operands = [[builder.whole(size) for size in shape] for shape in operand_shapes(node)]
    return builder.rule(operands, [builder.dims(result_shape(node))])


define(
    "zeros.default ones.default full.default empty.memory_format new_zeros.default new_ones.default new_full.default "
    "new_empty.default",
    constant_rule,
    localize=with_shape_argument("size"),
)
define(
    "arange.default arange.start arange.start_step linspace.default logspace.default scalar_tensor.default eye.default "
    "eye.m",
    whole_rule,
)
define(
    "rand.default randn.default randint.default randint.low rand_like.default randn_like.default bernoulli.default "
    "native_dropout.default multinomial.default normal_functional.default randperm.default",
    whole_rule,
    traits=[Trait.RANDOM],
)


def dropout_rule(node: fx.Node) -> FactorRule:
    """In training all ranks must draw one mask; in evaluation it is the identity."""
    return whole_rule(node) if bind(node)["train"] else linear_rule(node)


define("dropout.default feature_dropout.default alpha_dropout.default", dropout_rule, traits=[Trait.RANDOM])
