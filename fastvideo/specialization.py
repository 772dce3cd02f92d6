"""One signature of a compiled model: its program, what runs it, and the inputs that the model itself does not take."""

from __future__ import annotations

import inspect
import itertools
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError
from fastvideo_ir.memory import MOST_INVARIANT
from fastvideo_ir.pass_manager import Timing

from .backends import attention
from .backends.attention.sliding_tile import WindowSchedule
from .frontends.capture import Captured
from .planned import Planned
from .runtime.executors import Executor
from .runtime.memories import Scope
from .stopwatch import Stopwatch

MOST_COMPARED = 1 << 16
"""Bytes of inputs that are copied to the host and compared, rather than computed with; the masks of prompts are few."""
MOST_ANSWERS = 4
"""Sets of inputs whose answers are remembered: as with the positive and the negative prompt, of two generations."""


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


class RecentAnswers:
    """What was answered of the last few sets of small tensors, by their values, so that copies need no asking."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, ...], bool] = {}

    def of(self, tensors: Sequence[Tensor], ask: Callable[[], bool]) -> bool:
        """The answer for tensors of the same shapes and dtypes in every call; waits for their device."""
        if sum(tensor.nbytes for tensor in tensors) > MOST_COMPARED:
            return ask()
        values = tuple(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)
        answer = self._known.pop(values) if values in self._known else ask()
        self._known = dict([*self._known.items(), (values, answer)][-MOST_ANSWERS:])
        return answer


class InvariantInputs:
    """Numbers the sets of invariant inputs that calls bring: the same tensors with the same values have one number.

    Attributes:
        indices: of the invariant inputs among all.
    """

    def __init__(self, indices: Sequence[int] = ()) -> None:
        self.indices = tuple(indices)
        self._known: list[tuple[TensorStamp, int]] = []
        self._numbers = itertools.count()

    def number(self, inputs: Sequence[Tensor]) -> int | None:
        """The number for a call's inputs; None where none of them is invariant."""
        if not self.indices:
            return None
        given = [inputs[index] for index in self.indices]
        for stamp, number in self._known:
            if stamp.is_of(given):
                return number
        return next(self._numbers)

    def computed(self, inputs: Sequence[Tensor], number: int | None) -> None:
        """A call under ``number`` has gone well: what follows from its invariant inputs is kept from now on."""
        if number is not None:
            known = [entry for entry in self._known if entry[1] != number][-MOST_INVARIANT + 1 :]
            self._known = [*known, (TensorStamp([inputs[index] for index in self.indices]), number)]

    def forget(self) -> None:
        """What was kept is out of date."""
        self._known.clear()


@dataclass
class Specialization:
    """One signature of the model, compiled: its program and what runs it.

    Attributes:
        watch: what the first call took before it ran, and for what.
        kept: what became of the capture on disk.
    """

    captured: Captured
    planned: Planned
    executor: Executor
    timing: Timing
    watch: Stopwatch
    kept: str
    calls: int = 0
    windows: WindowSchedule | None = None
    invariant: InvariantInputs = field(default_factory=InvariantInputs)
    _seen: tuple[TensorStamp, bool] | None = None
    _answers: RecentAnswers = field(default_factory=RecentAnswers)

    @property
    def program(self) -> ir.Program:
        """What the ranks run."""
        return self.planned.program

    def reads(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether the program can read these weights of the model, by source: all are there, of the types it knows."""
        program = self.captured.program
        types = {program.params[node.name]: ir.tensor_type(node).unplaced for node in program.param_nodes}
        return all(
            param.kind is ir.ParamKind.CONSTANT
            or (param.source in weights and ir.TensorType.of(weights[param.source]) == kind)
            for param, kind in types.items()
        )

    def holds(self, inputs: Sequence[Tensor], device: torch.device) -> bool:
        """Whether what the program assumes of its inputs' values is so; asked anew only where they may have changed."""
        assumption = self.planned.assumption
        if assumption is None:
            return True
        read = [inputs[index] for index in assumption.inputs_read]
        if self._seen is None or not self._seen[0].is_of(read):
            answer = self._answers.of(read, partial(assumption.holds, self.captured.params, inputs, device))
            self._seen = TensorStamp(read), answer
        return self._seen[1]

    def run(self, inputs: list[Tensor], scope: Scope, step: int | None) -> list[Any]:
        """Run the program on the model's flat inputs; see :meth:`Executor.run` and :meth:`with_windows`."""
        number = self.invariant.number(inputs)
        outputs = self.executor.run(self.with_windows(inputs, step), replace(scope, invariant=number))
        self.invariant.computed(inputs, number)
        return outputs

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


def invariant_inputs(captured: Captured, arguments: Sequence[str]) -> InvariantInputs:
    """The inputs of a program that stand in arguments which stay the same over many calls."""
    paths = enumerate(captured.call.paths)
    return InvariantInputs([index for index, path in paths if re.split(r"[.\[]", path)[0] in arguments])


def check_invariant(arguments: Sequence[str], signature: inspect.Signature, model: str) -> None:
    """Refuse names that are no arguments of a model, with InvalidArgumentError or UnknownNameError."""
    if isinstance(arguments, str):
        raise InvalidArgumentError(f"invariant={arguments!r} is one text; expected names, e.g. ({arguments!r},)")
    for name in arguments:
        if name not in signature.parameters:
            raise UnknownNameError(f"argument of {model}.forward", name, signature.parameters)
