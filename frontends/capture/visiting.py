"""Runs a model on a device that its weights do not fit on: they visit it op by op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

HOME = torch.device("cpu")


class WeightsVisit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, whatever lies in the host's memory is copied to the device for the op that reads it, and what ops make
    is made there; as if the model were there whole, at the price of a copy per weight and op.

    What ops write into tensors of the host is lost.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*tree_map(self._there, args), **tree_map(self._there, kwargs or {}))

    def _there(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._device) if value.device == HOME else value
        return self._device if value == HOME and isinstance(value, torch.device) else value
