"""Modules that do not fit on a device together take turns: the weights of one at a time are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Guest(Protocol):
    """Something whose weights are on the device while it is its turn."""

    def leave(self) -> None:
        """Free the device's memory."""


class Turns:
    """Whose turn it is on one device. Nothing leaves before another one comes."""

    def __init__(self) -> None:
        self._present: Guest | None = None

    def take(self, guest: Guest) -> None:
        """It is the turn of ``guest``; whoever was there leaves."""
        if self._present is guest:
            return
        if self._present is not None:
            self._present.leave()
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()  # what comes has other sizes
        self._present = guest


class HomeWeights:
    """The weights of a module that live in the host's memory and visit a device.

    What a run writes into a buffer is lost when they leave, as modules in eval mode write none.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._home: list[tuple[Tensor, Tensor]] = []

    @property
    def are_there(self) -> bool:
        return bool(self._home)

    def bring(self) -> None:
        """Copy them to the device, unless they are there; the module computes there from now on."""
        if not self.are_there:
            tensors = {id(t): t for t in (*self._module.parameters(), *self._module.buffers())}
            self._home = [(tensor, tensor.data) for tensor in tensors.values()]
            for tensor, home in self._home:
                tensor.data = home.to(self._device, copy=True)

    def send_home(self) -> None:
        """Free the copies."""
        for tensor, home in self._home:
            tensor.data = home
        self._home = []

    @contextmanager
    def visit(self) -> Iterator[None]:
        """They are on the device inside."""
        self.bring()
        try:
            yield
        finally:
            self.send_home()


class VisitingModule:
    """A module that is called as it is, anywhere in its tree, and has its weights on the device by then."""

    def __init__(self, module: nn.Module, device: torch.device, turns: Turns) -> None:
        self._weights = HomeWeights(module, device)
        self._turns = turns
        for part in module.modules():
            part.register_forward_pre_hook(self._arrive)

    def _arrive(self, *_: Any) -> None:
        self._turns.take(self)
        self._weights.bring()

    def leave(self) -> None:
        self._weights.send_home()
