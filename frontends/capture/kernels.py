"""Attention kernels that a model selects for itself, which a program does not follow: passes select its backends."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_KERNELS = ("flash", "mem_efficient", "math", "cudnn")


class ChosenKernels(TorchFunctionMode):
    """While entered, every attention may run on the kernels that were enabled before, whatever the model says.

    Attributes:
        overruled: whether the model said otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.overruled = False
        self._chosen = _enabled()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        wanted = _enabled() if func is torch.nn.functional.scaled_dot_product_attention else self._chosen
        if wanted == self._chosen:
            return func(*args, **(kwargs or {}))
        self.overruled = True
        _enable(self._chosen)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            _enable(wanted)


def _enabled() -> dict[str, bool]:
    return {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in _KERNELS}


def _enable(kernels: dict[str, bool]) -> None:
    for name, enabled in kernels.items():
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(enabled)
