"""One signature of a compiled model: its program, what runs it, and the inputs that the model itself does not take."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.pass_manager import Timing

from .backends import attention
from .backends.attention.sliding_tile import WindowSchedule
from .frontends.capture import Captured
from .runtime.executors import Executor
from .stopwatch import Stopwatch


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
