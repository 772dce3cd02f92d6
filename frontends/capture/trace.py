"""What every capture strategy starts from and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastvideo_ir.errors import CaptureError, InvalidArgumentError
from fastvideo_ir.program import ParamKind

from . import tree
from .eager_calls import ModuleCall
from .signature import BoundCall
from .tree import Tree
from .twins import TwinCall


class StrategyFailedError(CaptureError):
    """One strategy cannot capture this model; the next one may."""


@dataclass(frozen=True)
class Source:
    """The tensor behind a placeholder that is no input."""

    name: str
    kind: ParamKind
    tensor: torch.Tensor


@dataclass
class Trace:
    """A graph as a tracer left it: pre-dispatch ATen, possibly with mutation, device literals and assertions.

    Attributes:
        graph: its placeholders are the keys of ``sources`` and the names in ``inputs``; its output is a flat tuple.
        sources: weights and constants by placeholder name.
        inputs: placeholder names of the flat inputs, in order.
        output: structure of the model's return value.
        reads_values: whether the trace holds only for inputs that give the same values where it reads one.
        functions: module calls that were not traced, by the name under which the graph calls them.
        twins: module calls whose ops an earlier call has recorded, likewise.
        in_full: makes the same trace without twins; None where it has none.
    """

    graph: fx.Graph
    sources: dict[str, Source]
    inputs: list[str]
    output: Tree
    reads_values: bool = False
    functions: Mapping[str, ModuleCall] = field(default_factory=dict)
    twins: Mapping[str, TwinCall] = field(default_factory=dict)
    in_full: Callable[[], Trace] | None = None


@dataclass
class Results:
    """What the last run of a :class:`FlatModel` returned."""

    output: Tree | None = None
    tensors: list[torch.Tensor] = field(default_factory=list)


class FlatModel(nn.Module):
    """The model behind a flat face: distinct tensors in, distinct tensors out, everything else fixed.

    The model is the submodule ``model``; no tracer sees the structure of its arguments or of its results.
    ``mode`` is entered around the model's own code.
    """

    PREFIX = "model."

    def __init__(
        self,
        model: nn.Module,
        call: BoundCall,
        mode: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.model = model
        self.training = False
        self._call = call
        self._mode = mode
        self.results = Results()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self._call.arguments(tensors)
        if torch.compiler.is_dynamo_compiling():
            return tuple(tree.flatten_result(self.model(*args, **kwargs))[1])
        before = tree.flatten_arguments({"args": args, "kwargs": kwargs})
        with self._mode():
            result = self.model(*args, **kwargs)
        self._check_arguments_kept(before, tree.flatten_arguments({"args": args, "kwargs": kwargs}))
        self.results.output, self.results.tensors = tree.flatten_result(result)
        if not self.results.tensors:
            raise InvalidArgumentError(
                f"{type(self.model).__name__} returned no tensor, so there is nothing to compile"
            )
        return tuple(self.results.tensors)

    def _check_arguments_kept(self, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        same = before[0] == after[0] and all(a is b for a, b in zip(before[1], after[1], strict=True))
        if not same:
            raise InvalidArgumentError(
                f"{type(self.model).__name__} changes the containers that it is called with; a program cannot do that",
                hint="return the changed values instead",
            )
