"""One signature of a compiled model: its program, what runs it, and the inputs that the model itself does not take."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.pass_manager import Timing

from .assumption import Assumption
from .backends import attention
from .backends.attention.sliding_tile import WindowSchedule
from .frontends.capture import Captured
from .runtime.executors import Executor
from .stopwatch import Stopwatch


class TensorStamp:
    """Which tensors there were, and how often they had been written to."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._stamps = [(weakref.ref(tensor), _version(tensor)) for tensor in tensors]

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors with the same values; False where that cannot be known."""
        return len(tensors) == len(self._stamps) and all(
            known() is tensor and version is not None and version == _version(tensor)
            for (known, version), tensor in zip(self._stamps, tensors, strict=True)
        )


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


@dataclass
class Specialization:
    """One signature of the model, compiled: its program and what runs it.

    Attributes:
        watch: what the first call took before it ran, and for what.
        kept: what became of the capture on disk.
    """

    captured: Captured
    program: ir.Program
    executor: Executor
    timing: Timing
    watch: Stopwatch
    kept: str
    calls: int = 0
    windows: WindowSchedule | None = None
    assumption: Assumption | None = None
    _seen: tuple[TensorStamp, bool] | None = None

    def holds(self, inputs: Sequence[Tensor], device: torch.device) -> bool:
        """Whether what the program assumes of its inputs' values is so; asked anew only where they may have changed."""
        assumption = self.assumption
        if assumption is None:
            return True
        read = [inputs[index] for index in assumption.inputs_read]
        if self._seen is None or not self._seen[0].is_of(read):
            self._seen = TensorStamp(read), assumption.holds(self.captured.params, inputs, device)
        return self._seen[1]

    def with_windows(self, inputs: list[Tensor], step: int | None) -> list[Tensor]:
        """The program's inputs: the model's own, and the windows of attention at a denoising step where it takes them.

        Raises:
            InvalidArgumentError: windows depend on the step, and it is not known or beyond the last.
        """
        return inputs if self.windows is None else [*inputs, self.windows.at(step)]


def windows_of(program: ir.Program, captured: ir.Program, wish: attention.Wish) -> WindowSchedule | None:
    """The windows of a program that takes them as its last input; None for one whose inputs are the model's own.

    Raises:
        InvalidArgumentError: the windows are those of another model.
    """
    asked = attention.wished(wish)
    if len(program.input_nodes) == len(captured.input_nodes) or not isinstance(asked, attention.SlidingTile):
        return None
    layers, heads, _ = ir.tensor_type(program.input_nodes[-1]).shape
    return asked.schedule(layers, heads)


def with_own_constants(captured: Captured, numbers: Iterator[int]) -> Captured:
    """Constants that the tracer lifted get names of their own, since every signature of a model has others."""
    renamed: dict[str, str] = {}
    for program in (captured.program, *([captured.guards.program] if captured.guards else [])):
        for name, param in program.params.items():
            if param.kind is ir.ParamKind.CONSTANT:
                if param.source not in renamed:
                    renamed[param.source] = f"{param.source}#{next(numbers)}"
                program.params[name] = ir.Param(renamed[param.source], param.kind)
    params = {renamed.get(source, source): tensor for source, tensor in captured.params.items()}
    return replace(captured, params=params)
