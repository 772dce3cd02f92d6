"""Conditions under which a program that was traced with real values holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError
from fastvideo_ir.program import Location, ParamKind, Program

from .bits import compare


@dataclass(frozen=True)
class Guards:
    """Values that the model read into Python while it was traced. The program holds where they are the same.

    Attributes:
        program: computes the values from the program's own inputs.
        expected: the values while tracing.
        readers: per value, what read it.
        locations: per value, where.
    """

    program: Program
    expected: tuple[torch.Tensor, ...]
    readers: tuple[str, ...]
    locations: tuple[Location, ...]

    def changed(self, params: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]) -> int | None:
        """Index of the first value that these inputs change; None where the program holds for them.

        Args:
            params: as for the program that is guarded.
            inputs: flat, in the order of ``program.input_nodes``.
        """
        with torch.no_grad():
            values = ir.interpreter.evaluate(self.program, params, inputs)
        for index, (value, expected) in enumerate(zip(values, self.expected, strict=True)):
            if compare([value], [expected.to(value.device)]) is not None:
                return index
        return None

    @property
    def inputs_read(self) -> frozenset[int]:
        """Indices of the inputs that the values depend on."""
        return frozenset(index for index, node in enumerate(self.program.input_nodes) if node.users)

    def describe(self, index: int) -> str:
        """What was read where, for an error text."""
        return f"{self.readers[index]} in {self.locations[index]}"


def make_guards(
    program: Program,
    readers: Sequence[str],
    locations: Sequence[Location],
    params: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor],
) -> Guards:
    """Guards from a program that computes the escaped values.

    Raises:
        CaptureError: a value depends on a weight or on random numbers, so it is known only while the model runs.
    """
    for node, reader, location in zip(program.output_values, readers, locations, strict=True):
        cause = _unguardable(program, node)
        if cause:
            raise CaptureError(
                f"{reader} in {location} reads a value that depends on {cause}: it can change at every call",
                hint="compute it with tensor ops, or keep this module out of the compiled model",
            )
    expected = tuple(ir.interpreter.evaluate(program, params, inputs))
    return Guards(program, expected, tuple(readers), tuple(locations))


def _unguardable(program: Program, node: torch.fx.Node) -> str | None:
    seen: set[torch.fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        queue.extend(current.all_input_nodes)
        param = program.params.get(current.name)
        if param is not None and param.kind is ParamKind.PARAMETER:
            return f"the parameter {param.source!r}"
        tags = getattr(current.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            return "random numbers"
    return None
