"""Reading graphs: operands, uses, and printing names. Nothing here changes a graph (see :mod:`rewriter`)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from .errors import VerificationError
from .program import DEVICE, tensor_type, value_type
from .types import TensorType, TupleType


def flat_arguments(value: Any) -> Iterator[Any]:
    """The leaves of an argument: lists, tuples, dicts and slices are opened."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from flat_arguments(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat_arguments(item)
    elif isinstance(value, slice):
        yield from flat_arguments((value.start, value.stop, value.step))
    else:
        yield value


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """Operands in the order in which they are written, repeats included; keyword operands come last."""
    return [leaf for leaf in flat_arguments((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]


def map_operands(node: fx.Node, replacements: Iterable[fx.Node]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of ``node`` with its operands replaced, one for one, in the order of :func:`tensor_operands`."""
    supply = iter(replacements)
    return map_arguments(node, lambda _: next(supply))


def map_arguments(node: fx.Node, function: Callable[[fx.Node], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of ``node`` with every operand replaced by what ``function`` makes of it."""

    def visit(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return function(value)
        if isinstance(value, (tuple, list)):
            return type(value)(visit(item) for item in value)
        if isinstance(value, dict):
            return {key: visit(item) for key, item in value.items()}
        return value

    args = tuple(visit(value) for value in node.args)
    return args, {key: visit(value) for key, value in node.kwargs.items()}


def on_device(value: Any, device: torch.device) -> Any:
    """``value`` with the program's device token replaced by a real device."""
    if isinstance(value, torch.device):
        return device if value == DEVICE else value
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    return value


def is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem


def operand_type(node: fx.Node) -> TensorType:
    return tensor_type(node)


def result_types(node: fx.Node) -> tuple[TensorType | None, ...]:
    """The results of a node as a flat tuple."""
    result = value_type(node)
    return result.elements if isinstance(result, TupleType) else (result,)


def bind(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen node by parameter name, defaults included.

    Raises:
        VerificationError: the arguments do not fit the op's schema.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise VerificationError(f"{node.name}: {node.target} has no schema")
    bound: dict[str, Any] = {}
    positional = list(node.args)
    for number, parameter in enumerate(schema.arguments):
        if number < len(positional) and not parameter.kwarg_only:
            bound[parameter.name] = positional[number]
        elif parameter.name in node.kwargs:
            bound[parameter.name] = node.kwargs[parameter.name]
        elif parameter.has_default_value():
            bound[parameter.name] = parameter.default_value
        else:
            raise VerificationError(f"{node.name}: {node.target} misses argument {parameter.name!r}")
    return bound


def dim_index(dim: int, rank: int) -> int:
    """A dim counted from the front; negative ones count from the back."""
    return dim + rank if dim < 0 else dim
