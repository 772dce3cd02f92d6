"""A plan for a model, made from shapes alone: no weights, no GPUs."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, InvalidArgumentError
from fastvideo_ir.pass_manager import Instrument, Timing

from .extension import load_plugins
from .frontends.capture import Captured, capture
from .memory_limit import remedy
from .parallel import Parallel
from .passes.pipelines import Target, resolve_pipeline
from .passes.planner.hardware import AUTO, named_hardware
from .planned import Planned, plan_within_memory
from .report import Report, Subject, program_report
from .runtime.devices import resolve_device
from .settings import as_bytes, offload_params
from .specialization import check_invariant, invariant_inputs

DEVICE = "cuda"
"""What plans are for."""


def plan(
    model: nn.Module,
    inputs: Mapping[str, Any],
    num_gpus: int | None = None,
    *,
    parallel: Parallel | None = None,
    hardware: str = AUTO,
    attention_backend: str = "auto",
    passes: str | None = None,
    invariant: Sequence[str] = (),
    offload: str = "auto",
    max_memory: int | str | None = None,
) -> Report:
    """What :func:`fastvideo.compile` would plan for one call, and what it would cost.

    Args:
        model: in eval mode, on the meta device; or on the CPU where its code reads values of tensors.
        inputs: keyword arguments of one call, tensors on the model's device.
        num_gpus: ranks; None: as ``parallel`` says, or one.
        parallel: pins the division of the work.
        hardware: which device is modelled; see ``passes/planner/hardware.py``.
        attention_backend, passes, invariant: as for :func:`fastvideo.compile`.
        offload: ``auto``, ``none`` or ``blocks``, as for :func:`fastvideo.compile`.
        max_memory: of one device; None: what the modelled one has.

    Raises:
        InvalidArgumentError: an argument that can never work.
        UnknownNameError: a backend, pass or argument that does not exist; tells the nearest.
        CaptureError: the model cannot be captured, without values or at all.
        ShardingError: the work cannot be divided so.
    """
    load_plugins()
    ranks = num_gpus if num_gpus is not None else parallel.num_ranks if parallel else 1
    resolve_device("cpu", ranks)  # refuses a count that is none
    signature, name = inspect.signature(model.forward), type(model).__name__
    if parallel is not None:
        if parallel.num_ranks != ranks:
            raise InvalidArgumentError(f"{parallel} is for {parallel.num_ranks} ranks, but num_gpus={ranks}")
        parallel.check_names(signature, name)
    check_invariant(invariant, signature, name)
    modelled = named_hardware(hardware)
    target = Target(
        ranks,
        DEVICE,
        attention_backend,
        shard_params=parallel.shard_params if parallel else None,
        offload_params=offload_params(offload),
        memory=modelled.memory if max_memory is None else as_bytes(max_memory),
        invariant=tuple(invariant),
        hardware=modelled,
    )
    subject = plan_for(target, model, inputs, parallel=parallel, passes=passes)
    return Report(name, ranks, "planned", modelled.name, (program_report(subject),))


def plan_for(
    target: Target,
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    parallel: Parallel | None = None,
    passes: str | Sequence[ir.Pass | type[ir.Pass]] | None = None,
) -> Subject:
    """The same for any target, of which ``invariant`` names arguments of the model, without the report on it."""
    started = time.perf_counter()
    resolve_pipeline(passes, target)  # refuses unknown names before the model is captured
    captured = _captured(model, inputs)
    timing, paths, nodes = Timing(), captured.call.paths, captured.program.input_nodes
    if parallel is not None:
        parallel.check_inputs(paths, [torch.empty(ir.tensor_type(node).shape, device="meta") for node in nodes])
    invariant = invariant_inputs(captured, target.invariant).indices

    def planned_for(other: Target, watchers: Sequence[Instrument] = ()) -> Planned:
        program = captured.program.copy()
        if parallel is not None and other.ranks == target.ranks:
            parallel.annotate(program, paths)
        ir.run_passes(program, resolve_pipeline(passes, other), watchers)
        return Planned(program, other)

    of_program = replace(target, invariant=tuple(nodes[index].name for index in invariant))
    planned = plan_within_memory(of_program, partial(planned_for, watchers=[timing]))
    return Subject(
        captured,
        planned,
        tuple(timing.seconds),
        time.perf_counter() - started,
        remedy="" if planned.fits else remedy(planned.target, planned_for),
        elsewhere=not torch.cuda.is_available(),
        invariant=invariant,
    )


def _captured(model: nn.Module, inputs: Mapping[str, Any]) -> Captured:
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    try:
        return capture(model, (), dict(inputs), verify=False)
    except CaptureError as error:
        if not on_meta:
            raise
        raise CaptureError(
            f"{type(model).__name__} cannot be captured from shapes alone: {error.message}",
            hint="its code may read values of tensors; --materialize makes random weights on the CPU for them",
        ) from error
