"""What a case of the rule oracle is, and how its tensors are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SIZES = (2, 3, 4, 5, 6, 8)
"""Composite ones for units, odd ones for uneven pieces, and some below the number of ranks, for empty pieces."""


class Draw:
    """Random tensors of named dims: every letter is a size, drawn once; ``d.real("bsc")`` is three-dimensional."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._sizes: dict[str, int] = {}

    def size(self, letter: str) -> int:
        return self._sizes.setdefault(letter, self.random.choice(SIZES))

    def shape(self, *dims: str | int) -> list[int]:
        """Letters are drawn sizes, digits and numbers stand for themselves."""
        sizes: list[int] = []
        for part in dims:
            if isinstance(part, int):
                sizes.append(part)
            else:
                sizes += [int(letter) if letter.isdigit() else self.size(letter) for letter in part]
        return sizes

    def real(self, *dims: str | int) -> Tensor:
        return torch.randn(self.shape(*dims), dtype=torch.float64, generator=self._generator)

    def positive(self, *dims: str | int) -> Tensor:
        return torch.rand(self.shape(*dims), dtype=torch.float64, generator=self._generator) + 0.5

    def unit(self, *dims: str | int) -> Tensor:
        """In the open interval from -1 to 1."""
        return torch.rand(self.shape(*dims), dtype=torch.float64, generator=self._generator) * 1.8 - 0.9

    def ints(self, *dims: str | int, low: int = -4, high: int = 5) -> Tensor:
        return torch.randint(low, high, self.shape(*dims), generator=self._generator)

    def bools(self, *dims: str | int) -> Tensor:
        return self.ints(*dims, low=0, high=2).bool()

    def complex(self, *dims: str | int) -> Tensor:
        return torch.complex(self.real(*dims), self.real(*dims))


@dataclass(frozen=True)
class Call:
    """Arguments of one call of an op, with tensors in place."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


@dataclass(frozen=True)
class Case:
    """One use of an op, and what its rule must at least allow there. What the rule allows beyond that is tested too.

    Attributes:
        op: name in the registry.
        make: draws the arguments.
        shards: dims of the first result that must be shardable.
        sums: ``(operand, dim)`` pairs whose sharding must be allowed and leave a partial sum.
        statistics: ``(operand, dim)`` pairs whose sharding must be allowed, at the price of an expansion.
        partial: sets of operands whose partial sums must pass.
        tolerance: largest error, relative to the largest element; 0 demands equality. None for an op that leaves its
            result open: shapes alone are compared.
    """

    op: str
    make: Callable[[Draw], Call]
    shards: tuple[int, ...] = ()
    sums: tuple[tuple[int, int], ...] = ()
    statistics: tuple[tuple[int, int], ...] = ()
    partial: tuple[tuple[int, ...], ...] = ()
    tolerance: float | None = 1e-10


def case(
    name: str,
    make: Callable[[Draw], Call],
    shards: str = "",
    *,
    sums: Iterable[tuple[int, int]] = (),
    statistics: Iterable[int] = (),
    partial: Sequence[Sequence[int]] = (),
    tolerance: float | None = 1e-10,
) -> Case:
    """Short form: ``name`` without ``aten.``, ``shards`` as digits, ``statistics`` as dims of the first operand."""
    op = name if name.startswith("fv.") else f"aten.{name}"
    dims = tuple(int(digit) for digit in shards)
    pairs = tuple((0, dim) for dim in statistics)
    return Case(op, make, dims, tuple(sums), pairs, tuple(tuple(group) for group in partial), tolerance)


def exact(name: str, make: Callable[[Draw], Call], shards: str = "", **claims: Any) -> Case:
    """A case of an op that only moves values: the results are equal bit for bit."""
    return case(name, make, shards, tolerance=0.0, **claims)
