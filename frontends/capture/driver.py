"""From a model and one call to a verified program: strategies in order, each result checked against eager."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, EagerCallError, InvalidArgumentError
from fastvideo_ir.garbage import collections_put_off
from fastvideo_ir.program import Program

from .call_spec import CallSpec
from .checks import check_ambient, check_model, device_of
from .convert import Converted, to_program
from .dynamo import trace_with_dynamo
from .eager_calls import ModuleCall, MustStayEagerError, Reason, give_way, warn_of
from .export import trace_with_export
from .guards import Guards
from .location import Locator
from .memos import traced_memos_cleared
from .python_state import PythonState, warn_of_frozen_state
from .real_values import trace_with_real_values
from .signature import BoundCall, bind
from .trace import StrategyFailedError, Trace
from .verify import Run, Verifier


@dataclass(frozen=True)
class Attempt:
    """One strategy that was tried."""

    strategy: str
    outcome: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.strategy} ({self.seconds:.1f} s): {self.outcome}"


@dataclass(frozen=True)
class CaptureReport:
    """How a program was captured, and how far it is proved.

    Attributes:
        strategy: the one that succeeded.
        attempts: all that were tried, in order.
        verified: "bit-equal", "eager does not repeat itself (max diff ...)", or "not verified".
        seconds: in all.
        eager_calls: module calls that stay Python.
        rewritten: attributes and buffers that every run of the model sets anew, by path.
        frozen: of these, what the model counts or remembers.
        verifying_seconds: of ``seconds``, for runs of the model and of the program that compare them.
        stored: whether another process made the capture, and this one has read it.
    """

    strategy: str
    attempts: tuple[Attempt, ...]
    verified: str
    seconds: float
    eager_calls: tuple[ModuleCall, ...] = ()
    rewritten: frozenset[str] = frozenset()
    frozen: tuple[str, ...] = ()
    verifying_seconds: float = 0.0
    stored: bool = False


@dataclass
class Captured:
    """A program and what is needed to call it like the model.

    Attributes:
        program: at stage CAPTURED.
        params: tensors by ``Param.source``: the model's own, and constants that the tracer lifted.
        call: between the model's call and the program's flat tensors.
        report: how it was captured.
        guards: what must be the same for the program to hold, next to the signature; None where nothing must.
    """

    program: Program
    params: dict[str, torch.Tensor]
    call: CallSpec
    report: CaptureReport
    guards: Guards | None = None


Strategy = Callable[[nn.Module, BoundCall, Mapping[str, Reason]], Trace]
"""Takes the model, the call, and modules that must not be traced."""

STRATEGIES: tuple[tuple[str, Strategy], ...] = (
    ("export", trace_with_export),
    ("real-values", trace_with_real_values),
    ("dynamo", trace_with_dynamo),
)
"""Soundest first."""


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    verify: bool = True,
    verify_on: torch.device | None = None,
) -> Captured:
    """Capture ``model(*args, **kwargs)`` as one program.

    Args:
        model: in eval mode, on one device; on ``meta`` it is captured from shapes alone and not verified.
        args, kwargs: of one real call; the program serves every call of the same signature.
        verify: compare with the eager model on this input and on one with other values.
        verify_on: a device to compare on, with weights as visitors; None is where the weights are.

    Raises:
        InvalidArgumentError: the model or an argument can never be captured, e.g. the model changes its input.
        CaptureError: no strategy gave a program that equals the model; tells what each of them met.
    """
    # Tensors made in inference mode have no version counters, and tracers refuse them.
    module = check_model(model)
    state = PythonState(module)
    with torch.inference_mode(False), torch.no_grad(), _plain_modules(), _generators_kept():
        captured = _capture(module, state, args, kwargs, verify, verify_on)
    captured.report = replace(captured.report, rewritten=state.rebound, frozen=state.noticed)
    warn_of_frozen_state(module, state.noticed)
    warn_of(captured.report.eager_calls, module)
    return captured


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Puts the generators back that tracing has drawn from, so that the call draws what the model would have drawn."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _plain_modules() -> Iterator[None]:
    """Lets attention modules of torch run as they are written: their fused shortcut exists in eager mode alone."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _capture(
    module: nn.Module,
    state: PythonState,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    verify: bool,
    verify_on: torch.device | None,
) -> Captured:
    started = time.perf_counter()
    forward = inspect.signature(module.forward)
    owner = type(module).__name__
    call = bind(forward, owner, args, kwargs)
    device = device_of(module, call.tensors)
    check_ambient(device)
    on_meta = device.type == "meta"
    call = replace(call, tensors=[_plain(tensor, on_meta) for tensor in call.tensors])
    verifier = Verifier(module, call, state, verify_on) if verify and not on_meta else None
    locate = Locator(module)
    attempts: list[Attempt] = []
    for name, strategy in STRATEGIES[:1] if on_meta else STRATEGIES:
        began = time.perf_counter()
        try:
            trace, converted, verdict = _try(strategy, module, state, call, locate, verifier)
        except CaptureError as error:
            attempts.append(Attempt(name, str(error), time.perf_counter() - began))
            if verifier is not None:
                verifier.run_eager()  # a call that the model itself refuses is the caller's error, and not ours
            continue
        attempts.append(Attempt(name, verdict, time.perf_counter() - began))
        eager_calls = tuple(trace.functions.values())
        report = CaptureReport(
            name,
            tuple(attempts),
            verdict,
            time.perf_counter() - started,
            eager_calls,
            verifying_seconds=verifier.seconds if verifier else 0.0,
        )
        spec = CallSpec(forward, owner, call.signature, trace.output, tuple(call.paths))
        return Captured(converted.program, converted.params, spec, report, converted.guards)
    reasons = "\n".join(f"  {attempt}" for attempt in attempts)
    raise CaptureError(f"{owner} cannot be captured; tried:\n{reasons}")


def _try(
    strategy: Strategy,
    module: nn.Module,
    state: PythonState,
    call: BoundCall,
    locate: Locator,
    verifier: Verifier | None,
) -> tuple[Trace, Converted, str]:
    """Trace, program and verdict of one strategy; modules that turn out to be no part of a program stay Python."""
    stay_eager: dict[str, Reason] = {}
    while True:
        try:
            with state.kept(), traced_memos_cleared():
                trace = strategy(module, call, stay_eager)
            try:
                return _checked(trace, call, locate, verifier)
            except StrategyFailedError:
                if trace.in_full is None:
                    raise
            with state.kept(), traced_memos_cleared():
                trace = trace.in_full()
            return _checked(trace, call, locate, verifier)
        except MustStayEagerError as error:
            if "" in error.modules or error.modules.keys() <= stay_eager.keys():
                raise
            stay_eager |= error.modules


def _checked(trace: Trace, call: BoundCall, locate: Locator, verifier: Verifier | None) -> tuple[Trace, Converted, str]:
    with collections_put_off():
        converted = to_program(trace, call.paths, call.tensors, locate)
    return trace, converted, _check(trace, converted, verifier) if verifier else "not verified"


def _check(trace: Trace, converted: Converted, verifier: Verifier) -> str:
    """The verdict. Modules that stay Python but cannot be run by themselves give way to those around them."""
    fixed = converted.guards.inputs_read if converted.guards else frozenset()
    try:
        return verifier.check(_runner(converted), trace.output, fixed)
    except InvalidArgumentError:
        raise
    except EagerCallError as error:
        blamed = [made for made in trace.functions.values() if made.path == error.module]
        raise give_way(blamed, error.what) from error
    except Exception as error:  # a module may raise anything where what its caller has set up is missing
        if not trace.functions:
            raise
        raise give_way(list(trace.functions.values()), f"does not give what it gave: {error}") from error


def _plain(tensor: torch.Tensor, on_meta: bool) -> torch.Tensor:
    if on_meta:
        return tensor.to("meta")
    return tensor.clone() if tensor.is_inference() else tensor


def _runner(converted: Converted) -> Run:
    return lambda inputs: ir.interpreter.evaluate(converted.program, converted.params, inputs)
