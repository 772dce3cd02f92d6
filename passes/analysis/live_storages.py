"""Counts the bytes of the tensors that are alive while code runs, on any device; on ``meta`` nothing is allocated."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, adds up every storage that an op makes and takes off every one that dies. Views count once.

    What an op allocates for itself and frees before it returns is not seen.

    Args:
        outside: tensors whose storages do not count; they must outlive the mode.

    Attributes:
        now: bytes alive.
        peak: the most there have been.
    """

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._outside = {tensor.untyped_storage()._cdata for tensor in outside}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._outside or key in self._alive:
            return

        def free(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, free)
        self.now += size
        self.peak = max(self.peak, self.now)
