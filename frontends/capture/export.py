"""Capture with ``torch.export``: symbolic, sound, and the fastest. Refuses models that branch on tensor values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.fx import traceback as fx_traceback

from fastvideo_ir.errors import FastVideoError
from fastvideo_ir.garbage import collections_put_off
from fastvideo_ir.program import ParamKind

from .eager_calls import Reason
from .flex import open_flex_attention
from .location import Locator
from .quiet import quiet
from .signature import BoundCall
from .state import restored, unchanged
from .trace import FlatModel, Source, StrategyFailedError, Trace
from .twins import Twins
from .watch import TraceWatch

_KINDS = {
    InputKind.PARAMETER: ParamKind.PARAMETER,
    InputKind.BUFFER: ParamKind.BUFFER,
    InputKind.CONSTANT_TENSOR: ParamKind.CONSTANT,
}


def trace_with_export(model: nn.Module, call: BoundCall, stay_eager: Mapping[str, Reason]) -> Trace:
    """Trace ``call`` with ``torch.export.export(strict=False)``, repeated blocks once.

    Raises:
        StrategyFailedError: export refuses the model.
    """
    twins = Twins(model)
    try:
        trace = export(model, call, strict=False, twins=twins)
    except StrategyFailedError:
        if not twins.calls:
            raise
        return export(model, call, strict=False)
    return (
        replace(trace, twins=twins.calls, in_full=lambda: export(model, call, strict=False)) if twins.calls else trace
    )


def export(model: nn.Module, call: BoundCall, *, strict: bool, twins: Twins | None = None) -> Trace:
    """Trace ``call`` with ``torch.export``; ``strict`` goes through Dynamo. Raises as :func:`trace_with_export`."""
    locator = Locator(model)

    @contextmanager
    def watched() -> Iterator[None]:
        with TraceWatch(locator.is_own), twins.followed() if twins else nullcontext():
            yield

    flat = FlatModel(model, call, nullcontext if strict else watched)
    try:
        with (
            collections_put_off(),  # its tensors are fake: nothing large waits for one
            torch.no_grad(),
            quiet(),
            fx_traceback.preserve_node_meta(),
            restored(model),
            open_flex_attention(),
        ):
            exported = torch.export.export(flat, tuple(call.tensors), strict=strict)
    except FastVideoError:
        raise
    except Exception as error:  # a tracer may fail in any way; the reason is kept
        raise StrategyFailedError(reason_of(error, model)) from error
    if flat.results.output is None:
        # Dynamo has read the code without running it.
        with torch.no_grad(), unchanged(model, call, copies := [tensor.clone() for tensor in call.tensors]):
            flat(*copies)
    assert flat.results.output is not None
    signature = exported.graph_signature
    sources: dict[str, Source] = {}
    inputs: list[str] = []
    tensors = {
        **dict(flat.named_parameters(remove_duplicate=False)),
        **dict(flat.named_buffers(remove_duplicate=False)),
    }
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        else:
            sources[spec.arg.name] = _source(spec, tensors, exported.constants)
    kinds = {spec.kind for spec in signature.output_specs}
    if kinds != {OutputKind.USER_OUTPUT}:
        raise StrategyFailedError(f"the exported graph returns more than the model: {sorted(k.name for k in kinds)}")
    return Trace(exported.graph, sources, inputs, flat.results.output)


def _source(spec: InputSpec, tensors: dict[str, torch.Tensor], constants: dict[str, object]) -> Source:
    if spec.kind not in _KINDS or spec.target is None:
        raise StrategyFailedError(f"the exported graph reads {spec.arg.name}, a {spec.kind.name}, which is no tensor")
    found = tensors.get(spec.target, constants.get(spec.target))
    if not isinstance(found, torch.Tensor):
        raise StrategyFailedError(f"the exported graph reads {spec.target!r}, which is no tensor of the model")
    return Source(spec.target.removeprefix(FlatModel.PREFIX), _KINDS[spec.kind], found)


def reason_of(error: Exception, model: nn.Module) -> str:
    """The first line of an error of torch, and the model's own line that caused it."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    place = Locator(model).of_error(error)
    return f"{type(error).__name__}: {first}" + (f" at {place}" if place else "")
