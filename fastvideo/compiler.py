"""``fastvideo.compile``: a plain ``nn.Module`` in, a callable of the same signature that runs on N ranks out."""

from __future__ import annotations

import inspect
import itertools
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, FastVideoError, IdleAxisError, InvalidArgumentError
from fastvideo_ir.pass_manager import Dump, Instrument, Timing

from .assumption import Assumption, assume
from .comparison import Comparison, compare
from .frontends.capture import Captured, Signature, capture
from .frontends.capture.signature import BoundCall, bind
from .model_state import ModelState
from .passes.pipelines import resolve_pipeline
from .plan_cache import PlanCache
from .ranks import Ranks
from .report import Report, report_of
from .runtime.memories import Scope
from .settings import Settings
from .specialization import Specialization, invariant_inputs, windows_of, with_own_constants
from .stopwatch import Stopwatch

MOST_RECAPTURES = 3  # for values of one guard that served one call each: then the next will not come again either
MOST_VALUES = 8  # programs kept for one signature; that which was not used for longest goes first


class IdleRanksWarning(UserWarning):
    """A part of a pipeline runs on one rank, since dividing it over all of them is not possible."""


class CompiledModel:
    """The model's own signature and return structure, run on the ranks it was compiled for.

    Made by :func:`fastvideo.compile`. Calls are serialised. Outputs come back on the inputs' device. Weights, and
    numbers and functions that modules hold, are read when a signature is compiled; a later change is noticed and
    refused, see :meth:`update_weights`.
    """

    def __init__(
        self, model: nn.Module, settings: Settings, ranks: Ranks | None = None, *, whole_if_idle: bool = False
    ) -> None:
        self._model = model
        self.__signature__ = inspect.signature(model.forward)  # what inspect and editors show
        self._settings = settings
        self._specializations: dict[Signature, list[Specialization]] = {}
        self._ranks = (ranks or Ranks()).join(settings)
        self._whole_if_idle = whole_if_idle
        self._lock = threading.RLock()
        self._closed = False
        self._state = ModelState(model)
        self._plans = PlanCache(model, settings)
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
            outputs = found.run(inputs, self._scope, self._step)
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
            approximate = found.run(inputs, self._scope, self._step)
            passes = resolve_pipeline(self._settings.passes, replace(self._settings.target, invariant=()))
            program, _ = self._planned(found.captured, [kept for step in passes if (kept := step.exact()) is not None])
            with self._ranks.executor(program, found.captured.params) as executor:
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
                found.invariant.forget()
                found.captured.params.update(self._current_params(found.captured))
            self._ranks.revive()
            self._ranks.update(self._all_params())
            for found in kept:
                if not found.executor.takes_new_weights:  # so may one be that runs on one rank beside workers
                    found.executor.close()
                    found.executor = self._ranks.executor(found.program, found.captured.params)
            self._state.accept()
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
        found = self._specialization(call)
        return found, found.captured.call.flatten(args, kwargs)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise FastVideoError("this compiled model is closed")

    def _refuse_if_unusable(self) -> None:
        self._refuse_if_closed()
        if self._model.training:
            raise InvalidArgumentError("the model is in training mode", hint="call model.eval()")
        if any(self._specializations.values()) and self._state.changed:
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
                current, program = self._current_params(found.captured), found.captured.program
                types = {program.params[node.name]: ir.tensor_type(node).unplaced for node in program.param_nodes}
                fits = same_attributes and all(
                    param.kind is ir.ParamKind.CONSTANT
                    or (param.source in current and ir.TensorType.of(current[param.source]) == kind)
                    for param, kind in types.items()
                )
                if not fits:
                    entries.remove(found)
                    found.executor.close()

    def _specialization(self, call: BoundCall) -> Specialization:
        entries = self._specializations.setdefault(call.signature, [])
        values: dict[tuple[str, int], set[Hashable]] = {}
        captured: Captured | None = None
        single_use = 0
        for found in sorted(entries, key=lambda entry: entry.assumption is None):  # what assumes most is fastest
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
        watch = Stopwatch()
        settings = self._settings
        place = self._device
        if settings.parallel is not None:
            settings.parallel.check_inputs(call.paths, call.tensors)
        args, kwargs = call.arguments([tensor.to(place) for tensor in call.tensors])
        captured = captured or self._captured(call, place, watch)
        timing = Timing()
        watchers: list[Instrument] = [timing]
        if settings.dump:
            number = sum(map(len, self._specializations.values()))
            watchers.append(Dump(settings.dump if number == 0 else settings.dump / f"signature-{number}"))
        program, params = captured.program, captured.params
        inputs = captured.call.flatten(tuple(args), kwargs)

        def evaluate(probe: ir.Program) -> list[Any]:
            with torch.autocast(place.type, enabled=False):
                windows = windows_of(probe, program, settings.attention_backend)
                given = inputs if windows is None else [*inputs, windows.table[0].to(place)]
                return ir.interpreter.evaluate(probe, params, given, place)

        invariant = invariant_inputs(captured, settings.invariant)
        names = tuple(program.input_nodes[index].name for index in invariant.indices)
        target = replace(settings.target, evaluate=evaluate if settings.verify else None, invariant=names)
        observe = evaluate if may_assume else None
        try:
            planned, assumption = self._planned(captured, resolve_pipeline(settings.passes, target), watchers, observe)
        except IdleAxisError as error:
            if not self._whole_if_idle or settings.parallel is not None:
                raise
            warnings.warn(
                f"{type(self._model).__name__} runs on one of {settings.num_ranks} ranks: {error.message}",
                IdleRanksWarning,
                stacklevel=2,
            )
            alone = resolve_pipeline(settings.passes, replace(target, ranks=1))
            planned, assumption = self._planned(captured, alone, watchers, observe)
        watch.lap("plan")
        windows = windows_of(planned, program, settings.attention_backend)
        executor = self._ranks.executor(planned, params)
        watch.lap("ranks and weights")
        made = Specialization(captured, planned, executor, timing, watch, self._plans.note)
        return replace(made, windows=windows, assumption=assumption, invariant=invariant)

    def _captured(self, call: BoundCall, place: torch.device, watch: Stopwatch) -> Captured:
        """The model as this call shows it, from disk or traced."""
        self._state.accept()
        placed = replace(call, tensors=[tensor.to(place) for tensor in call.tensors])
        kept = self._plans.capture_of(placed)
        watch.lap("cache")
        args, kwargs = placed.arguments(placed.tensors)
        captured = kept or capture(self._model, tuple(args), kwargs, verify=self._settings.verify)
        if kept is None:
            watch.lap("capture", verification=captured.report.verifying_seconds)
            self._plans.keep_capture(captured)
        self._state.accept(ignored=captured.report.rewritten)
        return with_own_constants(captured, self._constants)

    def _planned(
        self,
        captured: Captured,
        passes: list[ir.Pass],
        watchers: Sequence[Instrument] = (),
        observe: Callable[[ir.Program], Sequence[Any]] | None = None,
    ) -> tuple[ir.Program, Assumption | None]:
        """The captured program after ``passes``, ready for the ranks, and what it takes for granted of its inputs.

        ``observe`` runs a program on inputs that may be taken for granted; None: nothing may.
        """
        settings = self._settings
        program = captured.program.copy()
        if settings.parallel is not None:
            settings.parallel.annotate(program, captured.call.paths)
        passes, assumption = (passes, None) if observe is None else assume(program, passes, observe)
        key = self._plans.plan_key(program, passes)
        kept = self._plans.plan_at(key) if key else None
        if kept is None:
            ir.run_passes(program, passes, watchers)
        program = kept or program
        if program.stage < ir.Stage.COMMUNICATING and program.mesh.num_ranks > 1:
            raise InvalidArgumentError(
                f"the passes leave the program at stage {program.stage.name}; ranks need COMMUNICATING",
                hint="start from 'default', or end with plan-sharding, insert-reshards, lower-reshards",
            )
        if program.mesh.num_ranks != settings.num_ranks and not self._whole_if_idle:
            raise InvalidArgumentError(
                f"the passes leave the program with {program.mesh}, but it is compiled for {settings.num_ranks} ranks",
                hint="keep choose-mesh among the passes, or pin the division with parallel=Parallel(...)",
            )
        if key and kept is None:
            self._plans.keep_plan(key, program)
        return program, assumption

    def _all_params(self) -> dict[str, Tensor]:
        entries = [found for several in self._specializations.values() for found in several]
        return {source: tensor for found in entries for source, tensor in found.captured.params.items()}
