"""Params that a program leaves in the host's memory: page-locked for a CUDA device, so that copies overlap compute."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

import torch
from torch import Tensor

import fastvideo_ir as ir


class HostWeights:
    """Those of one model, once for all its programs; each goes with the last program that reads it."""

    def __init__(self) -> None:
        self._kept: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def get(self, key: str, make: Callable[[], Tensor], device: torch.device) -> Tensor:
        """The param called ``key`` for programs on ``device``; made by ``make`` where there is none yet."""
        known = self._kept.get(key)
        if known is None:
            known = self._kept[key] = on_host(make(), device)
        return known

    def forget(self) -> None:
        """The values are out of date."""
        self._kept = WeakValueDictionary()


def on_host(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` where ``device`` can fetch it from: as it is for the CPU, else page-locked.

    Raises:
        DeviceMemoryError: the host cannot lock so much memory.
    """
    if device.type == "cpu" or tensor.is_pinned():
        return tensor
    try:
        return tensor.cpu().pin_memory()
    except RuntimeError as error:
        raise ir.errors.DeviceMemoryError(
            f"{tensor.numel() * tensor.element_size() / 2**20:.0f} MiB of weights cannot be locked in the host's "
            f"memory: {error}",
            hint="offloading needs as much host memory as the weights take; raise `ulimit -l`, or use more GPUs",
        ) from error
