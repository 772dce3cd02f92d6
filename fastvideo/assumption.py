"""What a plan takes for granted of the inputs' values, so that it can be asked again at every call.

Passes are functions of a program and their options alone. One that could make use of values is an
:class:`fastvideo_ir.ObservingPass`; what its observer finds for the call at hand becomes an option of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError


@dataclass(frozen=True)
class Assumption:
    """A plan that was made under one holds for the inputs of which the observed values are the expected ones.

    Attributes:
        observer: computes the values, each one number, from the inputs of the program that is planned.
        expected: the values under which the plan holds.
        meanings: what they say, in a user's words.
    """

    observer: ir.Program
    expected: tuple[int, ...]
    meanings: tuple[str, ...]

    @property
    def inputs_read(self) -> tuple[int, ...]:
        """Indices of the inputs that the values depend on."""
        return tuple(index for index, node in enumerate(self.observer.input_nodes) if node.users)

    def holds(self, params: Mapping[str, Tensor], inputs: Sequence[Tensor], device: torch.device) -> bool:
        """Whether the plan holds for ``inputs``, which may be on any device; waits for ``device`` once."""
        read = set(self.inputs_read)
        placed = [tensor.to(device) if index in read else tensor for index, tensor in enumerate(inputs)]
        return _numbers(ir.interpreter.evaluate(self.observer, params, placed, device)) == self.expected


def assume(
    program: ir.Program, passes: Sequence[ir.Pass], evaluate: Callable[[ir.Program], Sequence[Any]]
) -> tuple[list[ir.Pass], Assumption | None]:
    """Passes that know what they asked about the inputs, and what a plan of theirs then assumes; None: nothing.

    Args:
        program: what the passes will be run on.
        passes: the passes.
        evaluate: runs a program on the inputs that are compiled for.

    Raises:
        InvalidArgumentError: several passes ask.
    """
    asking = [(number, step) for number, step in enumerate(passes) if isinstance(step, ir.ObservingPass)]
    if len(asking) > 1:
        names = " and ".join(step.name for _, step in asking)
        raise InvalidArgumentError(
            f"{names} ask of the inputs' values; one pass of a pipeline may", hint="leave one out"
        )
    if not asking:
        return list(passes), None
    ((at, step),) = asking
    seen = program.copy()
    ir.run_passes(seen, passes[:at])
    observer = step.observer(seen)
    if observer is None:
        return list(passes), None
    found = _numbers(evaluate(observer))
    told = step.told(found)
    return [*passes[:at], told, *passes[at + 1 :]], Assumption(observer, found, told.meanings(seen))


def _numbers(values: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(torch.stack(list(values)).tolist())
