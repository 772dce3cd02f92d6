"""``fastvideo.compile``: a plain ``nn.Module`` in, a callable of the same signature that runs on N ranks out."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, FastVideoError, InvalidArgumentError
from fastvideo_ir.pass_manager import Dump, Instrument, Timing

from .comparison import Comparison, compare
from .frontends.capture import Captured, Signature, capture
from .frontends.capture.signature import BoundCall, bind
from .frontends.capture.visiting import WeightsVisit
from .memory_limit import check_memory, visits_op_by_op
from .model_state import ModelState
from .passes.pipelines import resolve_pipeline
from .plan_cache import PlanCache
from .planned import Planned
from .program_planner import ProgramPlanner
from .ranks import Ranks
from .report import Report, report_of
from .runtime.executors import Executor
from .runtime.memories import Scope
from .runtime.turns import HomeWeights, Turns
from .settings import Settings
from .specialization import InvariantInputs, Specialization, invariant_inputs, windows_of, with_own_constants
from .stopwatch import Stopwatch

MOST_RECAPTURES = 3  # for values of one guard that served one call each: then the next will not come again either
MOST_VALUES = 8  # programs kept for one signature; that which was not used for longest goes first


class CompiledModel:
    """The model's own signature and return structure, run on the ranks it was compiled for.

    Made by :func:`fastvideo.compile`. Calls are serialised. Outputs come back on the inputs' device. Weights, and
    numbers and functions that modules hold, are read when a signature is compiled; a later change is noticed and
    refused, see :meth:`update_weights`.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        ranks: Ranks | None = None,
        *,
        whole_if_idle: bool = False,
        turns: Turns | None = None,
        stays: bool = False,
    ) -> None:
        self._model = model
        self.__signature__ = inspect.signature(model.forward)  # what inspect and editors show
        self._settings = settings
        self._specializations: dict[Signature, list[Specialization]] = {}
        self._ranks = (ranks or Ranks()).join(settings)
        self._turns = turns
        self._visits = turns is not None and not stays
        self._weights = HomeWeights(model, settings.device)
        self._streams = visits_op_by_op(model, settings, visits=self._visits)
        self._lock = threading.RLock()
        self._closed = False
        self._state = ModelState(model)
        self._plans = PlanCache(model, settings)
        self._planner = ProgramPlanner(type(model).__name__, settings, self._plans, whole_if_idle=whole_if_idle)
        self._constants = itertools.count()
        self._step: int | None = None
        self.extra_outputs: list[Any] = []
        self._scope = Scope()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Takes what the model takes and returns what it returns.

        Raises:
            InvalidArgumentError: the model is in training mode or its weights have changed, or an input cannot be used.
            CaptureError: the model cannot be captured for these inputs.
            WorkerError: a rank died, raised or hung; the next call starts the ranks anew.
        """
        with self._lock, torch.no_grad():
            found, inputs = self._prepared(args, kwargs)
            outputs = self._run(found, inputs)
            place = inputs[0].device if inputs else self._settings.device
            own = len(found.captured.program.output_values)
            self.extra_outputs = outputs[own:]  # what passes have added
            on_inputs = [value.to(place) if isinstance(value, Tensor) else value for value in outputs[:own]]
            return found.captured.call.unflatten(on_inputs)

    def __getattr__(self, name: str) -> Any:
        """Whatever else callers read of the model (``config``, ``dtype``, ``device``, …) is the model's own."""
        if name.startswith("_") or "_model" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._model, name)

    def __repr__(self) -> str:
        settings = self._settings
        state = "closed" if self._closed else f"{len(self.programs)} signatures compiled"
        return f"<compiled {type(self._model).__name__}, {settings.num_ranks} ranks ({settings.executor}), {state}>"

    def compare_exact(self, *args: Any, **kwargs: Any) -> Comparison:
        """Call the model as it is compiled, and once more without any approximation, on the same inputs.

        The exact program keeps everything else: ranks, division of the work, code generator. It is made for this call
        and dropped behind it; on GPUs its weights take their room beside the approximate ones for that time.

        Returns:
            The error of every output; str() of it is a small table.

        Raises:
            As calls do.
        """
        with self._lock, torch.no_grad():
            found, inputs = self._prepared(args, kwargs)
            approximate = self._run(found, inputs)
            passes = resolve_pipeline(self._settings.passes, replace(self._settings.target, invariant=()))
            exact_passes = [kept for step in passes if (kept := step.exact()) is not None]
            program, _ = self._planner.run_passes(found.captured, exact_passes)
            with self._executor(program, found.captured) as executor:
                exact = executor.run(inputs)
            return compare([name for step in passes if (name := step.approximates) is not None], approximate, exact)

    def set_step(self, step: int | None) -> None:
        """Say which denoising step the next calls belong to, from 0 on; for attention windows that depend on it."""
        with self._lock:
            self._step = step

    def reset_cache(self) -> None:
        """Forget what earlier calls have kept for later ones: what follows is another generation.

        The pipeline does this before it denoises. Without it, the steps of one video would be compared with those of
        the video before.
        """
        with self._lock:
            self._scope = replace(self._scope, generation=self._scope.generation + 1)

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Calls within keep apart from calls in other contexts, as when guidance calls the model twice a step.

        Diffusers' pipelines call their denoiser in contexts of these names by themselves.
        """
        before = self._scope.context
        self._scope = replace(self._scope, context=name)
        try:
            yield
        finally:
            self._scope = replace(self._scope, context=before)

    @property
    def programs(self) -> list[ir.Program]:
        """The planned programs, one per compiled signature, in the order of their first calls."""
        return [found.program for entries in self._specializations.values() for found in entries]

    @property
    def report(self) -> Report:
        """What was done, as data."""
        entries = [found for several in self._specializations.values() for found in several]
        return report_of(self._model, self._settings, entries)

    def explain(self) -> str:
        """What was done, and why: modelled time, memory, and block by block what is exchanged and what stayed whole."""
        return str(self.report)

    def update_weights(self) -> None:
        """Read the model's weights and settings anew, after they have been changed on purpose.

        A signature whose weights have become other in kind, or whose settings have changed, is compiled anew at its
        next call.
        """
        with self._lock:
            self._refuse_if_closed()
            self._forget_outgrown()
            kept = [found for entries in self._specializations.values() for found in entries]
            for found in kept:
                found.captured.params.update(self._current_params(found.captured))
            self._ranks.revive()
            self._ranks.update(self._all_params())
            for found in kept:
                if not found.executor.takes_new_weights:  # so may one be that runs on one rank beside workers
                    found.executor.close()
                    found.executor = self._executor(found.program, found.captured, found.planned.no_graphs)
            self._state.accept()
            self._forget_kept()

    def _forget_kept(self) -> None:
        """What calls have kept for later ones may come of other weights."""
        for found in itertools.chain(*self._specializations.values()):
            found.invariant.forget()
        self.reset_cache()

    def close(self) -> None:
        """End the ranks and let go of the programs. Idempotent; also done when the interpreter ends."""
        with self._lock:
            self._closed = True
            for entries in self._specializations.values():
                for found in entries:
                    found.executor.close()
            self._specializations.clear()
            self._ranks.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Specialization, list[Tensor]]:
        """What serves a call, compiled if need be, and the call's flat inputs."""
        self._refuse_if_unusable()
        call = bind(inspect.signature(self._model.forward), type(self._model).__name__, args, kwargs)
        for tensor, path in zip(call.tensors, call.paths, strict=True):
            if tensor.is_meta:
                raise InvalidArgumentError(f"argument {path!r} is on the meta device: it has no values")
        self._ranks.revive()
        if self._turns is not None:
            self._turns.take(self)
        found = self._specialization(call)
        return found, found.captured.call.flatten(args, kwargs)

    def _run(self, found: Specialization, inputs: list[Tensor]) -> list[Any]:
        """The program's outputs. That the model is still what was compiled is looked at while the devices compute."""
        try:
            outputs = found.run(inputs, self._scope, self._step)
        except Exception:
            self._refuse_if_changed()  # which may be why
            raise
        self._refuse_if_changed()
        return outputs

    def leave(self) -> None:
        """Free the devices' memory for another model whose turn it is; the next call brings the weights back."""
        for entries in self._specializations.values():
            for found in entries:
                found.executor.rest()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise FastVideoError("this compiled model is closed")

    def _refuse_if_unusable(self) -> None:
        self._refuse_if_closed()
        if self._model.training:
            raise InvalidArgumentError("the model is in training mode", hint="call model.eval()")

    def _refuse_if_changed(self) -> None:
        if any(self._specializations.values()) and self._state.changed:
            self._forget_kept()
            setting = self._state.changed_setting
            raise InvalidArgumentError(
                f"the model's {setting} has changed since it was compiled"
                if setting is not None
                else "the model's weights have changed since it was compiled",
                hint=f"call update_weights() after changing {'it' if setting is not None else 'them'}",
            )

    def _current_params(self, captured: Captured) -> dict[str, Tensor]:
        """The model's tensors of today for what the program reads; constants of the trace are not among them."""
        state: dict[str, Tensor] = {}
        state.update(self._model.named_parameters(remove_duplicate=False))
        state.update(self._model.named_buffers(remove_duplicate=False))
        return {source: state[source] for source in captured.params if source in state}

    def _forget_outgrown(self) -> None:
        """Drop programs that the model no longer fits: weights of another dtype, shape or name, other attributes."""
        same_attributes = not self._state.attributes_changed
        for entries in self._specializations.values():
            for found in list(entries):
                if not (same_attributes and found.reads(self._current_params(found.captured))):
                    entries.remove(found)
                    found.executor.close()

    def _specialization(self, call: BoundCall) -> Specialization:
        entries = self._specializations.setdefault(call.signature, [])
        values: dict[tuple[str, int], set[Hashable]] = {}
        captured: Captured | None = None
        single_use = 0
        # What assumes most is fastest.
        for found in sorted(entries, key=lambda entry: entry.planned.assumption is None):
            guards = found.captured.guards
            index = guards.changed(found.captured.params, call.tensors) if guards else None
            if guards is not None and index is not None:
                if found.calls == 1:
                    values.setdefault(guards.name(index), set()).add(guards.value(index))
            elif found.holds(call.tensors, self._device):
                entries.append(entries.pop(entries.index(found)))
                found.calls += 1
                return found
            else:
                captured = found.captured
                single_use += found.calls == 1
        for (guard, _), known in values.items():
            if len(known) > MOST_RECAPTURES:
                raise CaptureError(
                    f"the model was captured for {len(known)} values of one guard, and now it has another: {guard}",
                    hint="pass this value as a Python number, or compute it with tensor ops",
                )
        made = self._compile(call, captured, may_assume=single_use <= MOST_RECAPTURES)
        made.calls = 1
        entries.append(made)
        if len(entries) > MOST_VALUES:
            entries.pop(0).executor.close()
        return made

    @property
    def _device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self._model.parameters()), self._settings.device)

    def _compile(self, call: BoundCall, captured: Captured | None, may_assume: bool) -> Specialization:
        """A program for a call.

        Args:
            call: the call.
            captured: the model as it was captured for another call, where it holds for this one too.
            may_assume: whether the program may hold for some values of the inputs alone.
        """
        self._refuse_if_changed()
        watch = Stopwatch()
        settings = self._settings
        if settings.parallel is not None:
            settings.parallel.check_inputs(call.paths, call.tensors)
        if captured is None:
            self._state.accept()
        timing = Timing()
        with self._weights.visit() if self._visits and not self._streams else nullcontext():
            captured = captured or self._captured(call, watch)
            invariant = invariant_inputs(captured, settings.invariant)
            planned = self._planned(call, captured, invariant, may_assume, timing)
        watch.lap("plan")
        self._state.accept(ignored=captured.report.rewritten)
        if self._visits:
            captured.params.update(self._current_params(captured))  # those at home
        otherwise = partial(self._planner.plan_otherwise, captured, planned)
        check_memory(type(self._model).__name__, planned, otherwise)
        windows = windows_of(planned.program, captured.program, settings.attention_backend)
        executor = self._executor(planned.program, captured, planned.no_graphs)
        watch.lap("ranks and weights")
        made = Specialization(captured, planned, executor, timing, watch, self._plans.note)
        return replace(made, windows=windows, invariant=invariant)

    def _captured(self, call: BoundCall, watch: Stopwatch) -> Captured:
        """The model as this call shows it, from disk or traced; its weights are where it computes."""
        placed = replace(call, tensors=[tensor.to(self._device) for tensor in call.tensors])
        kept = self._plans.capture_of(placed)
        watch.lap("cache")
        args, kwargs = placed.arguments(placed.tensors)
        verify = self._settings.verify
        captured = kept or capture(self._model, tuple(args), kwargs, verify=verify, verify_on=self._visited)
        if kept is None:
            watch.lap("capture", verification=captured.report.verifying_seconds)
            self._plans.keep_capture(captured)
        return with_own_constants(captured, self._constants)

    def _planned(
        self, call: BoundCall, captured: Captured, invariant: InvariantInputs, may_assume: bool, timing: Timing
    ) -> Planned:
        """The program for a call; the model's weights are where it computes."""
        settings, place = self._settings, self._device
        watchers: list[Instrument] = [timing]
        if settings.dump:
            number = sum(map(len, self._specializations.values()))
            watchers.append(Dump(settings.dump if number == 0 else settings.dump / f"signature-{number}"))
        program, params = captured.program, captured.params
        args, kwargs = call.arguments([tensor.to(place) for tensor in call.tensors])
        inputs = captured.call.flatten(tuple(args), kwargs)

        def evaluate(probe: ir.Program) -> list[Any]:
            there = self._visited or place
            with torch.autocast(there.type, enabled=False), WeightsVisit(there) if self._visited else nullcontext():
                windows = windows_of(probe, program, settings.attention_backend)
                given = inputs if windows is None else [*inputs, windows.table[0].to(place)]
                return ir.interpreter.evaluate(probe, params, given, there)

        names = tuple(program.input_nodes[index].name for index in invariant.indices)
        target = replace(settings.target, evaluate=evaluate if settings.verify else None, invariant=names)
        return self._planner.plan(captured, target, watchers, evaluate if may_assume else None)

    @property
    def _visited(self) -> torch.device | None:
        """The device that weights visit op by op for as long as the model is compiled; None where they are there."""
        return self._settings.device if self._streams else None

    def _executor(self, program: ir.Program, captured: Captured, no_graphs: str = "") -> Executor:
        return self._ranks.executor(program, captured.params, visiting=self._visits, no_graphs=no_graphs)

    def _all_params(self) -> dict[str, Tensor]:
        entries = [found for several in self._specializations.values() for found in several]
        return {source: tensor for found in entries for source, tensor in found.captured.params.items()}
