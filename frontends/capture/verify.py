"""Checks that a captured program computes what the model computes, bit for bit, on two inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from fastvideo_ir.errors import InvalidArgumentError

from .bits import compare, max_difference
from .checks import device_of
from .kernels import plain_kernels
from .other_values import other_values
from .python_state import PythonState
from .signature import BoundCall
from .state import unchanged
from .trace import FlatModel, StrategyFailedError
from .tree import Tree
from .visiting import WeightsVisit

Run = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""Flat tensors in, flat tensors out."""

_SEED = 20240229


@dataclass(frozen=True)
class EagerResult:
    """What the model itself returned."""

    tensors: list[torch.Tensor]
    output: Tree


@dataclass(frozen=True)
class _Input:
    """Which input: the caller's own, or one with other values except for those at ``fixed``."""

    name: str
    fixed: frozenset[int] = frozenset()


class Verifier:
    """Compares programs with the eager model. The model runs once per input, and again only where they differ.

    Args:
        model: runs on its own weights; a buffer that a run changes is restored.
        call: the call that was captured.
        state: what the model keeps in Python; every run finds it as it was at the start.
        device: where to run, with the weights as visitors; None is where they are.

    Attributes:
        seconds: that comparing has taken so far.
    """

    def __init__(
        self, model: nn.Module, call: BoundCall, state: PythonState, device: torch.device | None = None
    ) -> None:
        self._model = model
        self._state = state
        self._visited = device
        self._device = device or device_of(model, call.tensors)
        self._call = call
        self._second = other_values(call.tensors)
        self._eager: dict[_Input, EagerResult | Exception] = {}
        self.seconds = 0.0

    def check(self, run: Run, output: Tree, fixed: frozenset[int] = frozenset()) -> str:
        """Run the program on both inputs; returns the verdict in words.

        Args:
            run: the program.
            output: structure of the return value as the tracer saw it.
            fixed: inputs that keep their values, because the program holds for these alone.

        Raises:
            StrategyFailedError: a result differs.
        """
        began = time.perf_counter()
        try:
            verdicts = [self._check_on(given, run, output) for given in (_Input("first"), _Input("second", fixed))]
        finally:
            self.seconds += time.perf_counter() - began
        return next((verdict for verdict in verdicts if verdict != "bit-equal"), "bit-equal")

    def run_eager(self) -> None:
        """Run the model on the first input, unless that is done; raises what the model raises."""
        self._run_eager(_Input("first"))

    def _tensors(self, given: _Input) -> list[torch.Tensor]:
        """New copies, since a model may write to them."""
        pairs = enumerate(zip(self._call.tensors, self._second, strict=True))
        keep_all = given.name == "first"
        chosen = [first if keep_all or index in given.fixed else second for index, (first, second) in pairs]
        return [tensor.to(self._device, copy=True) for tensor in chosen]

    def _visit(self) -> AbstractContextManager[object]:
        return nullcontext() if self._visited is None else WeightsVisit(self._visited)

    def _check_on(self, given: _Input, run: Run, output: Tree) -> str:
        eager = self._run_eager(given)
        if isinstance(eager, Exception):
            return f"bit-equal; eager itself raised on other values ({type(eager).__name__}: {_first_line(eager)})"
        if eager.output != output:
            raise StrategyFailedError(
                f"on the {given.name} input the model returns another structure than while it was traced"
            )
        with self._state.kept(), _same_random_numbers(self._device), torch.no_grad(), self._visit():
            results = list(run(self._tensors(given)))
        difference = compare(results, eager.tensors)
        if difference is None:
            return "bit-equal"
        with plain_kernels():
            plain = self._run(given)
        if compare(results, plain.tensors) is None:
            return "bit-equal to the model without the kernels that it selects, or compiles, for itself"
        return self._explain(given, results, eager, difference)

    def _explain(self, given: _Input, results: list[torch.Tensor], eager: EagerResult, difference: str) -> str:
        """Eager that does not repeat itself cannot be met bit for bit; then its own spread is the tolerance."""
        again = self._run(given)
        if compare(again.tensors, eager.tensors) is None:
            raise StrategyFailedError(f"on the {given.name} input {difference}")
        spread, error = max_difference(again.tensors, eager.tensors), max_difference(results, eager.tensors)
        if not error <= 4 * spread:
            raise StrategyFailedError(
                f"on the {given.name} input {difference}; eager differs from itself by {spread:.3g} only"
            )
        return f"eager does not repeat itself (max diff {spread:.3g})"

    def _run_eager(self, given: _Input) -> EagerResult | Exception:
        if given not in self._eager:
            try:
                self._eager[given] = self._run(given, twice=given.name == "first")
            except Exception as error:  # a model may raise anything; the verdict or the caller tells
                if given.name == "first" or isinstance(error, InvalidArgumentError):
                    raise
                self._eager[given] = error
        return self._eager[given]

    def _run(self, given: _Input, *, twice: bool = False) -> EagerResult:
        """One run. A model that has changed what it keeps in Python must give the same again with that.

        Raises:
            InvalidArgumentError: it does not, so that its result depends on the calls before.
        """
        with self._state.kept():
            result = self._forward(given)
            changed = self._state.changed() if twice else []
            again = self._forward(given) if changed else result
        if (difference := _difference(again, result)) and not _difference(self._run(given), result):
            raise InvalidArgumentError(
                f"{type(self._model).__name__} remembers {', '.join(changed)} from call to call, and a second call "
                f"with the same inputs gives another result ({difference}); a compiled model has no memory",
                hint="pass what it remembers as an argument, and return the new value",
            )
        return result

    def _forward(self, given: _Input) -> EagerResult:
        flat = FlatModel(self._model, self._call)
        inputs = self._tensors(given)
        unharmed, seeded = unchanged(self._model, self._call, inputs), _same_random_numbers(self._device)
        with unharmed, seeded, torch.no_grad(), self._visit():
            flat(*inputs)
        assert flat.results.output is not None
        return EagerResult(flat.results.tensors, flat.results.output)


def _difference(left: EagerResult, right: EagerResult) -> str | None:
    return compare(left.tensors, right.tensors) if left.output == right.output else "another structure"


@contextmanager
def _same_random_numbers(device: torch.device) -> Iterator[None]:
    """The same random numbers in every run; the generators of the CPU and of ``device`` are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(_SEED)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_SEED)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
