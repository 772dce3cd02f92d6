"""Ops on meta tensors: what they give, without data. An op whose like was run before is not run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument, map_aggregate

from fastvideo_ir.program import DEVICE, Location

from .trace import StrategyFailedError

_Kind = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class MetaRuns:
    """Runs ops, and remembers the kinds of results that share no memory with an argument or with each other."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, str], _Kind] = {}

    def run(
        self,
        target: Callable[..., Any],
        args: Any,
        kwargs: Any,
        value_of: Callable[[fx.Node], Any],
        location: Location,
    ) -> Any:
        """Call ``target`` with the meta values of its argument nodes.

        Raises:
            StrategyFailedError: the op needs the values of its arguments.
        """
        operands: list[Any] = []

        def look_up(argument: Argument) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            operands.append(value_of(argument))
            return operands[-1]

        given, named = map_aggregate(tuple(args), look_up), map_aggregate(kwargs, look_up)
        key = (target, _text(args, kwargs, value_of)) if _is_functional(target, operands) else None
        if key in self._known:
            shape, stride, dtype = self._known[key]
            return torch.empty_strided(shape, stride, dtype=dtype, device=DEVICE)
        try:
            with torch.no_grad():
                result = target(*given, **named)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StrategyFailedError(f"{target} at {location} cannot be typed from shapes alone: {reason}") from error
        if key is not None and _is_new(result, operands):
            self._known[key] = (tuple(result.shape), result.stride(), result.dtype)
        return result


def _is_functional(target: Any, operands: list[Any]) -> bool:
    """Whether the result is known by the arguments: an op that writes to none of them, and they are tensors."""
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return all(isinstance(operand, torch.Tensor) for operand in operands)


def _text(args: Any, kwargs: Any, value_of: Callable[[fx.Node], Any]) -> str:
    """The arguments, with the kinds of tensors in the place of nodes."""

    def describe(argument: Argument) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        tensor = value_of(argument)
        flags = (tensor.is_conj(), tensor.is_neg())
        return ("%", tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype, *flags)

    return repr((map_aggregate(tuple(args), describe), map_aggregate(kwargs, describe)))


def _is_new(result: Any, operands: list[torch.Tensor]) -> bool:
    """Whether a result is one tensor with memory of its own."""
    if not isinstance(result, torch.Tensor) or result.storage_offset() or result.is_conj() or result.is_neg():
        return False
    storage = result.untyped_storage()._cdata
    return all(operand.untyped_storage()._cdata != storage for operand in operands)
