"""Conditions under which a program that was traced with real values holds."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.first_rank import draws_random_numbers
from fastvideo_ir.program import Location, ParamKind, Program

from .bits import compare
from .eager_calls import CALL, MustStayEagerError, Reason


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

    def name(self, index: int) -> tuple[str, int]:
        """Tells a value from all others, in every capture alike: what was read where, and for the how manieth time."""
        text = self.describe(index)
        return text, sum(self.describe(earlier) == text for earlier in range(index))

    def value(self, index: int) -> Hashable:
        """The value while tracing."""
        expected = self.expected[index]
        return tuple(expected.shape), tuple(expected.flatten().tolist())


def make_guards(
    program: Program,
    readers: Sequence[str],
    locations: Sequence[Location],
    params: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor],
) -> Guards:
    """Guards from a program that computes the escaped values.

    Raises:
        MustStayEagerError: a value is known only while the model runs, so the modules that read such must stay Python.
    """
    stay_eager: dict[str, Reason] = {}
    used = {node: program.params[node.name] for node in program.param_nodes}
    parameters = {node: param.source for node, param in used.items() if param.kind is ParamKind.PARAMETER}
    for node, reader, location in zip(program.output_values, readers, locations, strict=True):
        cause = unguardable(node, parameters, program.input_nodes)
        if cause:
            stay_eager.setdefault(location.module, reason_to_stay(reader, location, cause))
    if stay_eager:
        raise MustStayEagerError(stay_eager)
    # Copies: the caller may write to an input, and weights may be updated, in place.
    expected = tuple(value.clone() for value in ir.interpreter.evaluate(program, params, inputs))
    return Guards(program, expected, tuple(readers), tuple(locations))


def unguardable(node: fx.Node, parameters: Mapping[fx.Node, str], inputs: Collection[fx.Node]) -> str | None:
    """What of a value cannot be known before the model runs, in words; None where a guard can watch the value.

    Weights alone change when they are updated, and inputs alone are known before the call. What is computed of both is
    an activation.

    Args:
        node: the value.
        parameters: placeholders of parameters, with their names.
        inputs: placeholders of inputs.
    """
    seen: set[fx.Node] = set()
    queue = [node]
    weight: str | None = None
    reads_input = False
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        queue.extend(current.all_input_nodes)
        weight = parameters.get(current, weight)
        reads_input = reads_input or current in inputs
        if current.target in (ir.dialect.eager_call, CALL):
            return f"the module {str(current.args[1]).partition('@')[0]!r}, which stays Python"
        if draws_random_numbers(current):
            return "random numbers"
    return f"the parameter {weight!r}" if weight is not None and reads_input else None


def reason_to_stay(reader: str, location: Location, cause: str) -> Reason:
    """The reason of a module whose ``reader`` read a value of ``cause``."""
    return Reason(location, f"{reader} reads a value that depends on {cause}, so it can change at every call")
