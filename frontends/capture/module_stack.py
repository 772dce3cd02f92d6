"""Which module of a model runs, while it is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.fx import traceback as fx_traceback
from torch.nn.modules import module as nn_module


class ModuleStack:
    """The modules of ``model`` that run, outermost first, while :meth:`followed` is entered."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self._running: list[tuple[str, str]] = []

    def path_of(self, module: nn.Module) -> str | None:
        """Where ``module`` stands in the model; None where it is not in it."""
        return self._paths.get(module)

    @property
    def innermost(self) -> str:
        """Path of the module that runs."""
        return self._running[-1][0] if self._running else ""

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Stamps every traced op with the path of the innermost module that runs."""

        def enter(module: nn.Module, args: Any) -> None:
            if module in self._paths:
                self._running.append((self._paths[module], type(module).__qualname__))
                self._stamp()

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            if module in self._paths:
                self._running.pop()
                self._stamp()

        handles = [
            nn_module.register_module_forward_pre_hook(enter),
            nn_module.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._running.clear()

    def _stamp(self) -> None:
        stack = {str(index): entry for index, entry in enumerate(self._running)}
        fx_traceback.current_meta["nn_module_stack"] = stack
