"""Measured times of kernels, kept for this process and, where captures are kept, for later ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from .backends.attention.measured import Seconds
from .runtime.disk_cache import DiskCache


class KernelTimes(MutableMapping[str, Seconds]):
    """Seconds by name of a kernel, by what they were measured for.

    Iteration goes over what this process has measured or read.

    Args:
        directory: where they are kept; None: they end with the process.
    """

    def __init__(self, directory: Path | None) -> None:
        self._known: dict[str, Seconds] = {}
        self._files = DiskCache(directory) if directory is not None else None

    def __getitem__(self, key: str) -> Seconds:
        if key not in self._known and self._files is not None:
            for entry in self._files.load(_name(key)):
                if entry.data["key"] == key:
                    self._known[key] = entry.data["seconds"]
                    self._files.used(entry.name)
        return self._known[key]

    def __setitem__(self, key: str, seconds: Seconds) -> None:
        self._known[key] = seconds
        if self._files is not None:
            self._files.store(_name(key), {"key": key, "seconds": seconds}, {})

    def __delitem__(self, key: str) -> None:
        del self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _name(key: str) -> str:
    return f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:40]}"
