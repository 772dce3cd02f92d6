"""Normalisations over trailing dims or groups."""

from __future__ import annotations

from torch import fx

from ..factors import FactorRule, RuleBuilder
from ..graph import bind
from .define import define, operand_shapes


def norm_rule(node: fx.Node) -> FactorRule:
    """``layer_norm`` and ``rms_norm``: the normalized trailing dims are whole, weight and bias cover just those."""
    shapes = operand_shapes(node)
    normalized = len(bind(node)["normalized_shape"])
    builder = RuleBuilder()
    batch = builder.dims(shapes[0][: len(shapes[0]) - normalized])
    channels = [builder.whole(size) for size in shapes[0][len(shapes[0]) - normalized :]]
    operands = [[*batch, *channels], *([*channels] for _ in shapes[1:])]
    return builder.rule(operands, [[*batch, *channels]])


def group_norm_rule(node: fx.Node) -> FactorRule:
    """Batch is parallel; a group spans channels and all positions, so these are whole."""
    shapes = operand_shapes(node)
    builder = RuleBuilder()
    batch = builder.factor(shapes[0][0])
    channels = builder.whole(shapes[0][1])
    rest = [builder.whole(size) for size in shapes[0][2:]]
    operand = [batch, channels, *rest]
    return builder.rule([operand, *([channels] for _ in shapes[1:])], [operand])


define("layer_norm.default rms_norm.default", norm_rule)
define("group_norm.default", group_norm_rule)
