"""A captured program as JSON and tensors, and back: what is kept on disk of a capture. Nothing is unpickled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo_ir.errors import ParseError
from fastvideo_ir.program import Location, ParamKind, Program

from .call_spec import CallSpec
from .driver import Attempt, Captured, CaptureReport
from .guards import Guards
from .signature import BoundCall
from .tree_text import NoTextError, tree_from_json, tree_to_json

_EXPECTED = "expected."
_CONSTANT = "constant."


def to_stored(captured: Captured, model: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """JSON-able data, and the constants that the tracer lifted together with what guards expect.

    Raises:
        NoTextError: this capture holds for this process alone; says why.
    """
    report, guards = captured.report, captured.guards
    if report.eager_calls:
        raise NoTextError(f"the module {report.eager_calls[0].path!r} stays Python")
    state = _state_of(model)
    tensors: dict[str, torch.Tensor] = {}
    for param in _params(captured.program, guards):
        tensor = captured.params[param.source]
        if param.kind is ParamKind.CONSTANT:
            tensors[_CONSTANT + param.source] = tensor
        elif state.get(param.source) is not tensor:
            raise NoTextError(f"the weight {param.source!r} is not known to the model by this name")
    data: dict[str, Any] = {
        "program": _print(captured.program),
        "output": tree_to_json(captured.call.output),
        "strategy": report.strategy,
        "attempts": [asdict(attempt) for attempt in report.attempts],
        "verified": report.verified,
        "rewritten": sorted(report.rewritten),
        "frozen": list(report.frozen),
        "guards": None,
    }
    if guards is not None:
        data["guards"] = {
            "program": _print(guards.program),
            "readers": list(guards.readers),
            "locations": [asdict(location) for location in guards.locations],
        }
        tensors |= {f"{_EXPECTED}{index}": value for index, value in enumerate(guards.expected)}
    return data, tensors


def from_stored(
    data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], model: nn.Module, call: BoundCall, place: torch.device
) -> Captured:
    """Inverse of :func:`to_stored`, for a call of the same signature.

    Raises:
        NoTextError, ParseError, KeyError, TypeError, ValueError: the data is not, or not wholly, such a capture, or
            does not fit the model.
    """
    program, guards = ir.parse_program(data["program"]), None
    if data["guards"] is not None:
        kept = data["guards"]
        guards = Guards(
            ir.parse_program(kept["program"]),
            tuple(tensors[f"{_EXPECTED}{index}"] for index in range(len(kept["readers"]))),
            tuple(kept["readers"]),
            tuple(Location(**location) for location in kept["locations"]),
        )
    state, params = _state_of(model), {}
    for param in _params(program, guards):
        is_constant = param.kind is ParamKind.CONSTANT
        found = tensors[_CONSTANT + param.source].to(place) if is_constant else state[param.source]
        params[param.source] = found
    for each in [program, *([guards.program] if guards else [])]:
        for node in each.param_nodes:
            if ir.TensorType.of(params[each.params[node.name].source]) != ir.tensor_type(node):
                raise NoTextError(f"the weight {each.params[node.name].source!r} is of another type")
    report = CaptureReport(
        data["strategy"],
        tuple(Attempt(**attempt) for attempt in data["attempts"]),
        data["verified"],
        seconds=0.0,
        rewritten=frozenset(data["rewritten"]),
        frozen=tuple(data["frozen"]),
        stored=True,
    )
    forward, owner = inspect.signature(model.forward), type(model).__name__
    spec = CallSpec(forward, owner, call.signature, tree_from_json(data["output"]), tuple(call.paths))
    return Captured(program, params, spec, report, guards)


def _print(program: Program) -> str:
    try:
        return ir.print_program(program)
    except ParseError as error:
        raise NoTextError(error.message) from error


def _params(program: Program, guards: Guards | None) -> list[ir.Param]:
    programs = [program, *([guards.program] if guards else [])]
    return [param for each in programs for param in each.params.values()]


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
