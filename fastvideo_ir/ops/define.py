"""Short forms that the op files share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from ..factors import DimExpr, FactorRule, RuleBuilder
from ..graph import bind, dim_index, operand_type, result_types, tensor_operands
from ..program import tensor_type
from ..types import TensorType
from .registry import ExpansionFunction, LocalizeFunction, OpDef, RankView, RuleFunction, Trait, registry

aten = torch.ops.aten


def resolve(name: str) -> Any | None:
    """The overload called ``linear.default`` in ``torch.ops.aten``, or None where this torch has no such op."""
    packet_name, _, overload = name.partition(".")
    packet = getattr(aten, packet_name, None)
    return getattr(packet, overload, None) if packet is not None else None


def define(
    names: str | Iterable[str],
    rule: RuleFunction | None,
    *,
    traits: Iterable[Trait] = (),
    localize: LocalizeFunction | None = None,
    flops: Callable[[fx.Node], int] | None = None,
    expansion: ExpansionFunction | None = None,
) -> None:
    """Register ATen overloads, given as ``"linear.default mm.default"``, with one rule."""
    for name in names.split() if isinstance(names, str) else names:
        target = resolve(name)
        if target is not None:
            registry.register(OpDef(target, f"aten.{name}", frozenset(traits), rule, localize, flops, expansion))


def operand_shapes(node: fx.Node) -> list[tuple[int, ...]]:
    return [operand_type(operand).shape for operand in tensor_operands(node)]


def result_shape(node: fx.Node) -> tuple[int, ...]:
    first = result_types(node)[0]
    assert first is not None
    return first.shape


def present_results(node: fx.Node) -> list[TensorType | None]:
    return list(result_types(node))


def reduced_dims(node: fx.Node, rank: int) -> set[int]:
    """The dims that a reduction, a softmax or a scan works along; all where its arguments name none."""
    arguments = bind(node)
    given = next((arguments[name] for name in ("dim", "dims") if name in arguments), None)
    if given is None:
        return set(range(rank))
    dims: Iterable[int] = [given] if isinstance(given, int) else given
    return {dim_index(dim, rank) for dim in dims} or set(range(rank))


def broadcast(shape: Sequence[int], out: Sequence[DimExpr], out_shape: Sequence[int]) -> list[DimExpr]:
    """Expression of an operand that is broadcast to ``out_shape``."""
    missing = len(out_shape) - len(shape)
    return [out[missing + dim] if size == out_shape[missing + dim] else ((),) for dim, size in enumerate(shape)]


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which tensors of ``shapes`` broadcast."""
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def whole_rule(node: fx.Node) -> FactorRule:
    """Nothing may be sharded."""
    builder = RuleBuilder()
    operands = [[builder.whole(size) for size in shape] for shape in operand_shapes(node)]
    results = [None if r is None else [builder.whole(size) for size in r.shape] for r in result_types(node)]
    return builder.rule(operands, results)


def with_shape_argument(*names: str) -> LocalizeFunction:
    """A localize function for ops that take their result's shape as the argument called one of ``names``."""

    def localize(node: fx.Node, rank: RankView) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        shape = list(rank.shape(node))
        schema = node.target._schema  # type: ignore[union-attr]
        args, kwargs = list(node.args), dict(node.kwargs)
        for position, parameter in enumerate(schema.arguments):
            if parameter.name in names:
                if position < len(args):
                    args[position] = shape
                else:
                    kwargs[parameter.name] = shape
        return node.target, tuple(args), kwargs

    return localize


def or_empty(node: fx.Node, rank: RankView) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A localize function for ops that refuse empty tensors: a rank whose piece is empty makes an empty result."""
    shape = rank.shape(node)
    if 0 in shape:
        dtype = {"dtype": tensor_type(node).dtype}
        return aten.new_zeros.default, (tensor_operands(node)[0], list(shape)), dtype
    return node.target, node.args, dict(node.kwargs)


def torch_flops(node: fx.Node) -> int:
    """FLOPs by torch's own formula for the op, at global shapes."""
    formula = flop_registry[node.target._overloadpacket]  # type: ignore[union-attr]
    bound = bind(node)
    args, options = [], {}
    for parameter in node.target._schema.arguments:  # type: ignore[union-attr]
        value = _shape_argument(bound[parameter.name])
        if parameter.kwarg_only:
            options[parameter.name] = value
        else:
            args.append(value)
    first = result_types(node)[0]
    assert first is not None
    return int(formula(*args, **options, out_val=torch.empty(first.shape, dtype=first.dtype, device="meta")))


def _shape_argument(value: Any) -> Any:
    if isinstance(value, fx.Node):
        kind = operand_type(value)
        return torch.empty(kind.shape, dtype=kind.dtype, device="meta")
    return value
