"""Normalisations over trailing dims or groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from ..factors import FactorRule, RuleBuilder, product
from ..graph import bind, operand_type, tensor_operands
from . import statistics
from .define import define, operand_shapes, or_empty
from .registry import RankView


def norm_rule(node: fx.Node) -> FactorRule:
    """``layer_norm`` and ``rms_norm``: over the trailing dims, which weight and bias cover."""
    shapes = operand_shapes(node)
    normalized = len(bind(node)["normalized_shape"])
    builder = RuleBuilder()
    batch = builder.dims(shapes[0][: len(shapes[0]) - normalized])
    channels = [builder.statistic(size) for size in shapes[0][len(shapes[0]) - normalized :]]
    operands = [[*batch, *channels], *([*channels] for _ in shapes[1:])]
    return builder.rule(operands, [[*batch, *channels]])


def native_layer_norm_rule(node: fx.Node) -> FactorRule:
    """``layer_norm`` that returns mean and reciprocal deviation as well, over dims of size one."""
    rule = norm_rule(node)
    (result,) = rule.results
    assert result is not None
    normalized = len(bind(node)["normalized_shape"])
    statistics = (*result[: len(result) - normalized], *[((),)] * normalized)
    return replace(rule, results=(result, statistics, statistics))


def group_norm_rule(node: fx.Node) -> FactorRule:
    """``b (g c) …``: groups are parallel; statistics are taken over a group's channels and all positions."""
    shapes = operand_shapes(node)
    groups = bind(node)["num_groups"]
    builder = RuleBuilder()
    batch = builder.factor(shapes[0][0])
    channels = product(builder.factor(groups), builder.statistic(shapes[0][1] // groups))
    operand = [batch, channels, *(builder.statistic(size) for size in shapes[0][2:])]
    return builder.rule([operand, *([channels] for _ in shapes[1:])], [operand])


def localize_group_norm(node: fx.Node, rank: RankView) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A rank counts its own groups."""
    operand = tensor_operands(node)[0]
    local = rank.shape(operand)
    if 0 in local:
        return or_empty(node, rank)
    arguments = bind(node)
    arguments["num_groups"] = arguments["num_groups"] * local[1] // operand_type(operand).shape[1]
    return node.target, tuple(arguments.values()), {}


def channel_norm_rule(node: fx.Node) -> FactorRule | None:
    """``batch_norm`` and ``instance_norm``: channels are parallel; of what is normalized over, statistics are enough.

    None where running statistics are updated, which no functional program can do.
    """
    arguments = bind(node)
    shape, *channels = operand_shapes(node)
    batched = "training" in arguments
    counting = bool(arguments["training"] if batched else arguments["use_input_stats"])
    if counting and arguments["running_mean"] is not None:
        return None
    builder = RuleBuilder()
    counted = builder.whole if batched else builder.statistic
    kinds = [counting and batched, False, *[counting] * (len(shape) - 2)]
    dims = [counted(size) if over else builder.factor(size) for size, over in zip(shape, kinds, strict=True)]
    return builder.rule([dims, *([dims[1]] for _ in channels)], [dims])


define("layer_norm.default", norm_rule, expansion=statistics.layer_norm)
define("rms_norm.default", norm_rule, expansion=statistics.rms_norm)
define("native_layer_norm.default", native_layer_norm_rule, expansion=statistics.layer_norm)
define("group_norm.default", group_norm_rule, localize=localize_group_norm, expansion=statistics.group_norm)
define("instance_norm.default", channel_norm_rule, localize=or_empty, expansion=statistics.group_norm)
define("batch_norm.default", channel_norm_rule, localize=or_empty)
