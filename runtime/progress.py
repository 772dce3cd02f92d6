"""How far each rank has come, in a small file that all ranks map: it tells a rank that hangs from those that wait."""

from __future__ import annotations

import mmap
from pathlib import Path

_WORD = 8  # bytes; one aligned store, so a reader never sees half of it


class Progress:
    """One counter per rank. A rank counts up whenever it enters or leaves a collective or ends a command.

    Args:
        path: the file; the caller has made it with :meth:`create`.
        rank: whose counter :meth:`advance` counts up.
    """

    def __init__(self, path: Path, rank: int) -> None:
        with path.open("r+b") as file:
            self._counters = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._rank = rank

    @staticmethod
    def create(path: Path, num_ranks: int) -> None:
        path.write_bytes(bytes(_WORD * num_ranks))

    def advance(self) -> None:
        self._counters[self._rank] += 1

    def furthest_behind(self) -> int:
        """The rank with the smallest count, the caller's left out; the first of them where several are equal."""
        counts = self._counters.tolist()
        return min(range(1, len(counts)), key=counts.__getitem__)
