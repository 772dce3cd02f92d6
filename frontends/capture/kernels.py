"""Kernels that a model selects, or compiles, for itself. A program does not follow: its own come from passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_KERNELS = ("flash", "mem_efficient", "math", "cudnn")


@contextmanager
def plain_kernels() -> Iterator[None]:
    """While entered, attention runs on the kernels that are enabled now, and compiled functions run as written."""
    with torch.compiler.set_stance("force_eager"), _EnabledKernels():
        yield


@contextmanager
def compiled_functions_opened() -> Iterator[None]:
    """While entered, tracers see the functions behind ``torch.compile``."""
    with torch._dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


class _EnabledKernels(TorchFunctionMode):
    """Keeps attention to the kernels that were enabled when this was made."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen = _enabled()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        wanted = _enabled()
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
