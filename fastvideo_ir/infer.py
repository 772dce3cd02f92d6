"""Shape and dtype inference: runs an op on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .dialect import PlacementOp
from .graph import flat_arguments, result_types
from .program import DEVICE, tensor_type, value_type
from .types import TensorType, TupleType, ValueType


def meta_tensor(kind: TensorType, shape: Sequence[int] | None = None) -> Tensor:
    return torch.empty(tuple(kind.shape if shape is None else shape), dtype=kind.dtype, device=DEVICE)


def infer_type(
    target: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shape_of: Callable[[TensorType], Sequence[int]] | None = None,
) -> ValueType:
    """The unplaced type of what ``target`` yields.

    Args:
        target: what is called; placement ops are no functions of shapes alone and are not accepted.
        args: arguments with nodes in place of tensors.
        kwargs: likewise.
        shape_of: shape to use for an operand; its global shape where None.
    """
    assert not isinstance(target, PlacementOp)

    def visit(value: Any) -> Any:
        if isinstance(value, fx.Node):
            kind = value_type(value)
            if isinstance(kind, TupleType):
                return tuple(None if e is None else build(e) for e in result_types(value))
            return build(tensor_type(value))
        if isinstance(value, (tuple, list)):
            return type(value)(visit(item) for item in value)
        if isinstance(value, dict):
            return {key: visit(item) for key, item in value.items()}
        return value

    def build(kind: TensorType) -> Tensor:
        return meta_tensor(kind, shape_of(kind) if shape_of else None)

    with torch.no_grad():
        result = target(*visit(tuple(args)), **visit(dict(kwargs)))
    return type_of(result)


def type_of(value: Any) -> ValueType:
    """The unplaced type of a tensor or a flat row of tensors."""
    if isinstance(value, Tensor):
        return TensorType.of(value)
    elements = tuple(flat_arguments(value))
    return TupleType(tuple(TensorType.of(e) if isinstance(e, Tensor) else None for e in elements))
