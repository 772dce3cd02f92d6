"""The cases of the rule oracle, one file a kind of op."""

from __future__ import annotations

from . import attention, conv, index, matmul, memory, pointwise, reduce, shape, slicing, transform
from .case import Case, Draw

ALL: list[Case] = [
    case
    for module in (attention, conv, index, matmul, memory, pointwise, reduce, shape, slicing, transform)
    for case in module.CASES
]

__all__ = ["ALL", "Case", "Draw"]
