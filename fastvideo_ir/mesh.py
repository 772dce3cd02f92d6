"""The device mesh: named axes over ranks, in row-major order (the last axis varies fastest)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .errors import InvalidArgumentError

Coordinates = Mapping[str, int]
"""Position of one rank: mesh axis name -> index along that axis."""


@dataclass(frozen=True)
class Mesh:
    """Named axes and their sizes, e.g. ``Mesh((("cfg", 2), ("sp", 4)))`` for eight ranks."""

    axes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.axes]
        if len(set(names)) != len(names):
            raise InvalidArgumentError(f"mesh axis names must differ, got {names}")
        for name, size in self.axes:
            if size < 1:
                raise InvalidArgumentError(f"mesh axis {name!r} must have at least one rank, got {size}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.axes)

    @property
    def num_ranks(self) -> int:
        return math.prod(size for _, size in self.axes)

    def size(self, axis: str) -> int:
        """Number of ranks along ``axis``."""
        for name, size in self.axes:
            if name == axis:
                return size
        raise InvalidArgumentError(f"mesh {self} has no axis {axis!r}")

    def coordinates(self, rank: int) -> dict[str, int]:
        """The position of ``rank``; inverse of :meth:`rank`."""
        if not 0 <= rank < self.num_ranks:
            raise InvalidArgumentError(f"rank {rank} is not in a mesh of {self.num_ranks} ranks")
        result: dict[str, int] = {}
        for name, size in reversed(self.axes):
            rank, result[name] = divmod(rank, size)
        return result

    def rank(self, coordinates: Coordinates) -> int:
        result = 0
        for name, size in self.axes:
            result = result * size + coordinates[name]
        return result

    def group(self, rank: int, axis: str) -> tuple[int, ...]:
        """The ranks that differ from ``rank`` along ``axis`` alone, in axis order (``rank`` included)."""
        here = self.coordinates(rank)
        return tuple(self.rank({**here, axis: index}) for index in range(self.size(axis)))

    def groups(self, axis: str) -> Iterator[tuple[int, ...]]:
        """Every group along ``axis``, in the order of their lowest rank."""
        for rank in range(self.num_ranks):
            if self.coordinates(rank)[axis] == 0:
                yield self.group(rank, axis)

    def __str__(self) -> str:
        return "mesh(" + ", ".join(f"{name}={size}" for name, size in self.axes) + ")"
