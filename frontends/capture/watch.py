"""A look at every torch function that the model calls while it is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import traceback as fx_traceback
from torch.overrides import TorchFunctionMode

from fastvideo_ir.errors import InvalidArgumentError


class TraceWatch(TorchFunctionMode):
    """Makes ``tensor.data`` visible to tracers, and stamps every traced op with the model's own source line.

    Writing through ``.data`` escapes every tracer of torch: the write is lost, or burnt in as a constant. Here it is an
    alias in the graph. The lines that tracers record by themselves leave out what is not called ``forward``.

    Args:
        is_own: whether a file is the model's own source.
    """

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        super().__init__()
        self._is_own = is_own

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._stamp()
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a torch function gives while tracing."""
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return torch.ops.aten.alias.default(args[0])
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            raise InvalidArgumentError("the model assigns to `.data` of a tensor; a program cannot do that")
        return func(*args, **kwargs)

    def _stamp(self) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            if self._is_own(frame.f_code.co_filename):
                stack = f'File "{frame.f_code.co_filename}", line {frame.f_lineno}'
                fx_traceback.current_meta["stack_trace"] = stack
                return
            frame = frame.f_back  # type: ignore[assignment]
