"""``fastvideo.compile``: a plain ``nn.Module`` in, a callable of the same signature that runs on N ranks out."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, FastVideoError, InvalidArgumentError, UnknownNameError
from fastvideo_ir.pass_manager import Dump, Instrument, Timing

from .backends import attention
from .comparison import Comparison, compare
from .extension import check_importable, load_plugins, worker_plugins
from .frontends.capture import Captured, Signature, capture
from .frontends.capture.checks import check_model
from .frontends.capture.signature import BoundCall, bind
from .model_state import ModelState
from .parallel import Parallel
from .passes.pipelines import resolve_pipeline
from .report import Report, report_of
from .runtime.executors import Executor, LocalExecutor, SimulatedExecutor, WorkerGroup
from .settings import Settings, resolve_settings
from .specialization import Specialization, windows_of

__all__ = ["CompiledModel", "Parallel", "compile"]

MOST_RECAPTURES = 3  # for values of one guard that served one call each: then the next will not come again either
MOST_VALUES = 8  # programs kept for one signature; that which was not used for longest goes first


def compile(
    model: nn.Module,
    num_gpus: int | None = None,
    *,
    parallel: Parallel | None = None,
    attention_backend: attention.Wish | None = None,
    quantization: str | None = None,
    executor: str = "auto",
    device: str | torch.device | None = None,
    passes: str | Sequence[Any] | None = None,
    invariant: Sequence[str] = (),
    verify: bool = True,
) -> CompiledModel:
    """Compile a model for inference on ``num_gpus`` ranks. Nothing about the model needs to be registered.

    Capture and planning happen at the first call for each input signature (shapes, dtypes, non-tensor arguments).

    Args:
        model: in eval mode; stays as it is.
        num_gpus: ranks that work on one call: CUDA devices, or processes on the CPU. None: as ``parallel`` says, or
            one.
        parallel: pins the division of the work; None lets the planner choose it.
        attention_backend: a registered name, or a backend with options such as ``SlidingTile(window=(3, 3, 3))``, that
            must run every attention; None or ``"auto"``: the first exact one that can. The environment variable
            ``FASTVIDEO_ATTENTION_BACKEND`` stands in for None.
        quantization: ``"fp8"`` or ``"int8"``: linear layers run on such codes where that pays and where their error, on
            the first inputs of a signature, is small. None: none does.
        executor: ``"auto"``, ``"local"`` (one rank, here), ``"simulated"`` (all ranks in this process), ``"mp"``.
        device: None is CUDA where there is a GPU, otherwise the CPU.
        passes: ``"default,my-pass{k=2},-other-pass"``, or passes in the order in which they run.
        invariant: names of arguments that stay the same over many calls.
        verify: check each capture bit for bit against the model, on the first inputs and on others. Without it nothing
            is run to compile, so that approximate passes decide without measuring.

    Raises:
        InvalidArgumentError: an argument that can never work.
        UnknownNameError: a backend, format, pass or executor that does not exist; tells the nearest.
        BackendUnavailableError: the device cannot run the format.
    """
    load_plugins()
    module = check_model(model)
    arguments = inspect.signature(module.forward).parameters
    if isinstance(invariant, str):
        raise InvalidArgumentError(f"invariant={invariant!r} is one text; expected names, e.g. ({invariant!r},)")
    for name in invariant:
        if name not in arguments:
            raise UnknownNameError(f"argument of {type(module).__name__}.forward", name, arguments)
    if isinstance(parallel, Parallel):
        parallel.check_names(inspect.signature(module.forward), type(module).__name__)
    settings = resolve_settings(
        num_gpus, parallel, attention_backend, executor, device, passes, invariant, verify, quantization
    )
    return CompiledModel(module, settings)


class CompiledModel:
    """The model's own signature and return structure, run on the ranks it was compiled for; made by :func:`compile`.

    Calls are serialised. Outputs come back on the inputs' device. Weights are read when a signature is compiled; a
    later change is noticed and refused, see :meth:`update_weights`.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self._model = model
        self.__signature__ = inspect.signature(model.forward)  # what inspect and editors show
        self._settings = settings
        self._specializations: dict[Signature, list[Specialization]] = {}
        self._group: WorkerGroup | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._state = ModelState(model)
        self._constants = 0
        self._step: int | None = None
        self.extra_outputs: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Takes what the model takes and returns what it returns.

        Raises:
            InvalidArgumentError: the model is in training mode or its weights have changed, or an input cannot be used.
            CaptureError: the model cannot be captured for these inputs.
            WorkerError: a rank died, raised or hung; the next call starts the ranks anew.
        """
        with self._lock, torch.no_grad():
            found, inputs = self._prepared(args, kwargs)
            outputs = found.executor.run(found.with_windows(inputs, self._step))
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
            approximate = found.executor.run(found.with_windows(inputs, self._step))
            passes = resolve_pipeline(self._settings.passes, self._settings.target)
            program = self._planned(found.captured, [kept for step in passes if (kept := step.exact()) is not None])
            with self._executor(program, found.captured.params) as executor:
                exact = executor.run(inputs)
            return compare([name for step in passes if (name := step.approximates) is not None], approximate, exact)

    def set_step(self, step: int | None) -> None:
        """Say which denoising step the next calls belong to, from 0 on; for attention windows that depend on it."""
        with self._lock:
            self._step = step

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
        """Read the model's weights anew, after they have been changed on purpose.

        A signature whose weights have become other in kind is compiled anew at its next call.
        """
        with self._lock:
            self._refuse_if_closed()
            self._forget_outgrown()
            kept = [found for entries in self._specializations.values() for found in entries]
            for found in kept:
                found.captured.params.update(self._current_params(found.captured))
            self._revive()
            if self._group is not None:
                self._group.update_params(self._all_params())
            else:
                for found in kept:
                    found.executor.close()
                    found.executor = self._executor(found.program, found.captured.params)
            self._state.accept()

    def close(self) -> None:
        """End the ranks and let go of the programs. Idempotent; also done when the interpreter ends."""
        with self._lock:
            self._closed = True
            for entries in self._specializations.values():
                for found in entries:
                    found.executor.close()
            self._specializations.clear()
            if self._group is not None:
                self._group.close()
                self._group = None

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
        self._revive()
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
            raise InvalidArgumentError(
                "the model's weights have changed since it was compiled",
                hint="call update_weights() after changing them",
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

    def _revive(self) -> None:
        if self._group is not None and not self._group.alive:
            self._group.restart()

    def _specialization(self, call: BoundCall) -> Specialization:
        entries = self._specializations.setdefault(call.signature, [])
        values: dict[tuple[str, int], set[Hashable]] = {}
        for found in entries:
            guards = found.captured.guards
            index = guards.changed(found.captured.params, call.tensors) if guards else None
            if guards is None or index is None:
                entries.append(entries.pop(entries.index(found)))
                found.calls += 1
                return found
            if found.calls == 1:
                values.setdefault(guards.name(index), set()).add(guards.value(index))
        for (guard, _), known in values.items():
            if len(known) > MOST_RECAPTURES:
                raise CaptureError(
                    f"the model was captured for {len(known)} values of one guard, and now it has another: {guard}",
                    hint="pass this value as a Python number, or compute it with tensor ops",
                )
        made = self._compile(call)
        made.calls = 1
        entries.append(made)
        if len(entries) > MOST_VALUES:
            entries.pop(0).executor.close()
        return made

    def _compile(self, call: BoundCall) -> Specialization:
        start = time.perf_counter()
        settings = self._settings
        place = next((p.device for p in self._model.parameters()), settings.device)
        if settings.parallel is not None:
            settings.parallel.check_inputs(call.paths, call.tensors)
        args, kwargs = call.arguments([tensor.to(place) for tensor in call.tensors])
        self._state.accept()
        captured = self._with_own_constants(capture(self._model, tuple(args), kwargs, verify=settings.verify))
        self._state.accept(ignored=captured.report.rewritten)
        timing = Timing()
        watchers: list[Instrument] = [timing]
        if settings.dump:
            number = sum(map(len, self._specializations.values()))
            watchers.append(Dump(settings.dump if number == 0 else settings.dump / f"signature-{number}"))
        inputs = captured.call.flatten(tuple(args), kwargs)

        def evaluate(program: ir.Program) -> list[Any]:
            with torch.autocast(place.type, enabled=False):
                windows = windows_of(program, captured.program, settings.attention_backend)
                given = inputs if windows is None else [*inputs, windows.table[0].to(place)]
                return ir.interpreter.evaluate(program, captured.params, given, place)

        passes = resolve_pipeline(
            settings.passes, replace(settings.target, evaluate=evaluate if settings.verify else None)
        )
        program = self._planned(captured, passes, watchers)
        windows = windows_of(program, captured.program, settings.attention_backend)
        executor = self._executor(program, captured.params)
        return Specialization(captured, program, executor, timing, time.perf_counter() - start, windows=windows)

    def _planned(self, captured: Captured, passes: list[ir.Pass], watchers: Sequence[Instrument] = ()) -> ir.Program:
        """The captured program after ``passes``, ready for the ranks."""
        settings = self._settings
        program = captured.program.copy()
        if settings.parallel is not None:
            settings.parallel.annotate(program, captured.call.paths)
        ir.run_passes(program, passes, watchers)
        if program.stage < ir.Stage.COMMUNICATING and program.mesh.num_ranks > 1:
            raise InvalidArgumentError(
                f"the passes leave the program at stage {program.stage.name}; ranks need COMMUNICATING",
                hint="start from 'default', or end with plan-sharding, insert-reshards, lower-reshards",
            )
        if program.mesh.num_ranks != settings.num_ranks:
            raise InvalidArgumentError(
                f"the passes leave the program with {program.mesh}, but it is compiled for {settings.num_ranks} ranks",
                hint="keep choose-mesh among the passes, or pin the division with parallel=Parallel(...)",
            )
        return program

    def _with_own_constants(self, captured: Captured) -> Captured:
        """Constants that the tracer lifted get names of their own, since every signature has others."""
        renamed: dict[str, str] = {}
        programs = [captured.program, *([captured.guards.program] if captured.guards else [])]
        for program in programs:
            for name, param in program.params.items():
                if param.kind is ir.ParamKind.CONSTANT:
                    if param.source not in renamed:
                        renamed[param.source] = f"{param.source}#{self._constants}"
                        self._constants += 1
                    program.params[name] = ir.Param(renamed[param.source], param.kind)
        params = {renamed.get(source, source): tensor for source, tensor in captured.params.items()}
        return replace(captured, params=params)

    def _executor(self, program: ir.Program, params: dict[str, Tensor]) -> Executor:
        settings = self._settings
        if settings.executor == "simulated":
            return SimulatedExecutor(program, params, settings.device)
        if settings.executor == "local":
            return LocalExecutor(program, params, settings.device, generator=settings.codegen)
        check_importable(program)
        if self._group is None:
            self._group = WorkerGroup(
                settings.num_ranks, settings.device, plugins=worker_plugins(), generator=settings.codegen
            )
        return self._group.load(program, params)

    def _all_params(self) -> dict[str, Tensor]:
        entries = [found for several in self._specializations.values() for found in several]
        return {source: tensor for found in entries for source, tensor in found.captured.params.items()}
