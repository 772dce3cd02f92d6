"""What the placement ops move: which pieces each rank sends to which, and their shapes.

Everything follows from the source and target types, so uneven pieces, segments and several axes on one dim need no
cases. ``localize`` makes tensor ops of it; the transport is :class:`fastvideo_ir.interpreter.Communicator`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .layout import Range
from .mesh import Coordinates, Mesh
from .types import Shard, TensorType


@dataclass(frozen=True)
class Move:
    """One value on its way from one placement along ``axis`` to another, as the rank at ``at`` sees it."""

    source: TensorType
    target: TensorType
    axis: str
    mesh: Mesh
    at: Coordinates

    def peer(self, index: int) -> Coordinates:
        """Coordinates of the ``index``-th rank of this rank's group along the axis."""
        return {**self.at, self.axis: index}

    @property
    def peers(self) -> range:
        return range(self.mesh.size(self.axis))

    @property
    def gathered_dim(self) -> int | None:
        """The dim that the axis shards in the source."""
        placement = self.source.placement(self.axis)
        return placement.dim if isinstance(placement, Shard) else None

    @property
    def scattered_dim(self) -> int | None:
        """The dim that the axis shards in the target."""
        placement = self.target.placement(self.axis)
        return placement.dim if isinstance(placement, Shard) else None

    def pieces(self, dim: int, sender: Coordinates, receiver: Coordinates) -> list[Range]:
        """Global ranges of ``dim`` that ``sender`` holds and ``receiver`` wants, ascending."""
        held = self.source.local_ranges(dim, self.mesh, sender)
        wanted = self.target.local_ranges(dim, self.mesh, receiver)
        result = []
        for low, high in held:
            for start, stop in wanted:
                if max(low, start) < min(high, stop):
                    result.append((max(low, start), min(high, stop)))
        return result

    def chunk_shape(self, sender: Coordinates, receiver: Coordinates) -> tuple[int, ...]:
        """Shape of what ``sender`` sends to ``receiver``."""
        shape = list(self.source.local_shape(self.mesh, sender))
        for dim in {self.gathered_dim, self.scattered_dim} - {None}:
            assert dim is not None
            shape[dim] = sum(stop - start for start, stop in self.pieces(dim, sender, receiver))
        return tuple(shape)

    def receive_numels(self) -> list[int]:
        """Elements that this rank receives from each peer."""
        return [math.prod(self.chunk_shape(self.peer(index), self.at)) for index in self.peers]

    def numel_sent(self) -> float:
        """Elements that leave this rank; a reduction of whole values counts as reduce-scatter and all-gather."""
        parts = len(self.peers)
        if self.gathered_dim is None and self.scattered_dim is None:
            return 2 * (parts - 1) / parts * math.prod(self.source.local_shape(self.mesh, self.at))
        others = [index for index in self.peers if index != self.at[self.axis]]
        return float(sum(math.prod(self.chunk_shape(self.at, self.peer(index))) for index in others))

    def parts_for(self, dim: int, receiver: Coordinates) -> list[Range]:
        """The local ranges of ``dim`` that this rank gives to ``receiver``, which may be itself."""
        held = self.source.local_ranges(dim, self.mesh, self.at)
        return local_parts(held, self.pieces(dim, self.at, receiver)) or [(0, 0)]


def local_parts(held: Sequence[Range], wanted: Sequence[Range]) -> list[Range]:
    """Where the ``wanted`` global ranges lie in a dim that stores the ``held`` ones end to end; neighbours merged."""
    parts: list[Range] = []
    for start, stop in wanted:
        offset = 0
        for low, high in held:
            if low <= start and stop <= high:
                first = offset + start - low
                if parts and parts[-1][1] == first:
                    parts[-1] = (parts[-1][0], first + stop - start)
                else:
                    parts.append((first, first + stop - start))
                break
            offset += high - low
    return parts
