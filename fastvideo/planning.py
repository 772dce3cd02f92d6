"""A plan for a model, made from shapes alone: no weights, no GPUs."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo_ir.errors import CaptureError, InvalidArgumentError
from fastvideo_ir.pass_manager import Timing

from .extension import load_plugins
from .frontends.capture import capture
from .parallel import Parallel
from .passes.pipelines import Target, resolve_pipeline
from .passes.planner.hardware import AUTO, named_hardware
from .report import Report, Subject, program_report
from .runtime.devices import resolve_device

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
) -> Report:
    """What :func:`fastvideo.compile` would plan for one call, and what it would cost.

    Args:
        model: in eval mode, on the meta device; or on the CPU where its code reads values of tensors.
        inputs: keyword arguments of one call, tensors on the model's device.
        num_gpus: ranks; None: as ``parallel`` says, or one.
        parallel: pins the division of the work.
        hardware: which device is modelled; see ``passes/planner/hardware.py``.
        attention_backend, passes: as for :func:`fastvideo.compile`.

    Raises:
        InvalidArgumentError: an argument that can never work.
        CaptureError: the model cannot be captured, without values or at all.
        ShardingError: the work cannot be divided so.
    """
    load_plugins()
    started = time.perf_counter()
    ranks = num_gpus if num_gpus is not None else parallel.num_ranks if parallel else 1
    resolve_device("cpu", ranks)  # refuses a count that is none
    if parallel is not None:
        if parallel.num_ranks != ranks:
            raise InvalidArgumentError(f"{parallel} is for {parallel.num_ranks} ranks, but num_gpus={ranks}")
        parallel.check_names(inspect.signature(model.forward), type(model).__name__)
    device = named_hardware(hardware)
    target = Target(ranks, DEVICE, attention_backend, hardware=device)
    steps = resolve_pipeline(passes, target)
    captured = _captured(model, inputs)
    program, timing = captured.program.copy(), Timing()
    if parallel is not None:
        paths = captured.call.paths
        tensors = [torch.empty(ir.tensor_type(node).shape, device="meta") for node in program.input_nodes]
        parallel.check_inputs(paths, tensors)
        parallel.annotate(program, paths)
    ir.run_passes(program, steps, [timing])
    subject = Subject(
        captured,
        program,
        DEVICE,
        attention_backend,
        device,
        tuple(timing.seconds),
        time.perf_counter() - started,
        elsewhere=not torch.cuda.is_available(),
    )
    return Report(type(model).__name__, ranks, "planned", device.name, (program_report(subject),))


def _captured(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
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
