"""A trace becomes a program: functional, free of devices and assertions, every node typed and located."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from fastvideo_ir.program import DEVICE, Location, ParamKind, Program

from .autocast import insert_casts
from .builder import GraphBuilder
from .eager_calls import CALL, MustStayEagerError, Reason
from .escapes import MARKER
from .functional import Functionalizer
from .guards import Guards, make_guards, reason_to_stay, unguardable
from .location import Locator
from .normalize import fill_masks, free_views_of_memory, open_regions, unfold_inplace_views
from .scatters import merge_scatters
from .stamps import stamp_twins
from .trace import Source, StrategyFailedError, Trace

_CHECKS = re.compile(r"aten\.(_assert_\w+|_functional_assert_\w+|sym_constrain_range\w*)\.")
"""Checks that have passed while tracing."""

_READERS = {"aten.item.default", "aten._local_scalar_dense.default", "aten.equal.default", "aten.is_nonzero.default"}
"""Ops that hand a tensor's value to Python; what was read while tracing is burnt into the trace."""


@dataclass
class Converted:
    """A program, the tensors behind its params by ``Param.source``, and what its trace depends on."""

    program: Program
    params: dict[str, torch.Tensor]
    guards: Guards | None


def to_program(trace: Trace, paths: list[str], tensors: list[torch.Tensor], locate: Locator) -> Converted:
    """The program of a trace.

    Args:
        trace: what a strategy recorded.
        paths: names of the flat inputs.
        tensors: the flat inputs.
        locate: finds module and source line of a traced node.

    Raises:
        InvalidArgumentError: the model writes to a parameter, a buffer or an input.
        MustStayEagerError: the trace depends on values that no guard can watch.
        StrategyFailedError: a node cannot be part of a program.
    """
    try:
        return _to_program(trace, paths, tensors, locate)
    except StrategyFailedError:
        _ask_for_eager_modules(trace, locate)
        raise


def _ask_for_eager_modules(trace: Trace, locate: Locator) -> None:
    """What cannot be converted often follows a read of activations, whose module cannot be traced in any case.

    Raises:
        MustStayEagerError: there are such reads.
    """
    placeholders = {node.name: node for node in trace.graph.find_nodes(op="placeholder")}
    parameters = {
        placeholders[name]: source.name for name, source in trace.sources.items() if source.kind is ParamKind.PARAMETER
    }
    inputs = {placeholders[name] for name in trace.inputs}
    stay_eager: dict[str, Reason] = {}
    for node in trace.graph.nodes:
        if node.target is MARKER and (cause := unguardable(node.args[0], parameters, inputs)):
            location = locate(node)
            stay_eager.setdefault(location.module, reason_to_stay(str(node.args[1]), location, cause))
    if stay_eager:
        raise MustStayEagerError(stay_eager)


def _to_program(trace: Trace, paths: list[str], tensors: list[torch.Tensor], locate: Locator) -> Converted:
    open_regions(trace.graph)
    stamp_twins(trace)
    insert_casts(trace.graph)
    unfold_inplace_views(trace.graph)
    free_views_of_memory(trace.graph)
    fill_masks(trace.graph)
    builder = GraphBuilder(trace.functions)
    functionalizer = Functionalizer(builder)
    sources = _define_placeholders(trace, paths, tensors, builder, functionalizer)
    results: list[fx.Node] = []
    escapes: dict[fx.Node, tuple[str, Location]] = {}
    for node in trace.graph.nodes:
        builder.location = locate(node)
        if node.op == "call_function":
            if node.target is MARKER:
                escapes[functionalizer.read(node.args[0])] = (str(node.args[1]), builder.location)
            elif trace.reads_values and str(node.target) in _READERS:
                for value in node.all_input_nodes:
                    escapes.setdefault(functionalizer.read(value), (str(node.target), builder.location))
            elif node.target is CALL:
                call = trace.functions[str(node.args[1])]
                builder.location = replace(call.reason.location, module=call.path)
                functionalizer.call_eager(node, call.types)
            elif not _CHECKS.match(str(node.target)):
                functionalizer.call(node, *_clean(node, builder.location))
        elif node.op == "output":
            results = [_result(value, functionalizer) for value in node.args[0]]
        elif node.op != "placeholder":
            raise StrategyFailedError(f"{node.op} {node.target} at {builder.location} is no op")
    replaced = merge_scatters(builder)
    program = builder.finish([replaced.get(node, node) for node in results])
    guards = None
    if escapes:
        readers, locations = zip(*escapes.values(), strict=True)
        guards = make_guards(
            builder.finish([replaced.get(node, node) for node in escapes], keep_draws=False),
            readers,
            locations,
            sources,
            tensors,
        )
    programs = [program, guards.program] if guards else [program]
    used = {param.source for each in programs for param in each.params.values()}
    return Converted(program, {name: tensor for name, tensor in sources.items() if name in used}, guards)


def _define_placeholders(
    trace: Trace, paths: list[str], tensors: list[torch.Tensor], builder: GraphBuilder, functionalizer: Functionalizer
) -> dict[str, torch.Tensor]:
    """Emit all placeholders, params first; a weight that has two names is one param."""
    by_name = {node.name: node for node in trace.graph.find_nodes(op="placeholder")}
    by_tensor: dict[int, fx.Node] = {}
    named: dict[str, torch.Tensor] = {}
    for placeholder, source in trace.sources.items():
        known = by_tensor.get(id(source.tensor))
        if known is None:
            unique = _unique(source.name, named)
            known = builder.param(Source(unique, source.kind, source.tensor))
            by_tensor[id(source.tensor)] = known
            named[unique] = source.tensor
        functionalizer.define(by_name[placeholder], known, f"{source.kind.value} {source.name!r}")
    for placeholder, path, tensor in zip(trace.inputs, paths, tensors, strict=True):
        functionalizer.define(by_name[placeholder], builder.input(path, tensor), f"argument {path!r}")
    return named


def _unique(name: str, taken: dict[str, torch.Tensor]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def _clean(node: fx.Node, location: Location) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with device literals replaced; memory pinning is the runtime's business."""
    if not isinstance(node.target, torch._ops.OpOverload) and "getitem" not in str(node.target):
        raise StrategyFailedError(f"{node.target} at {location} is not an ATen op")
    if node.target is torch.ops.aten.as_strided.default:
        raise StrategyFailedError(f"{node.target} at {location} depends on how a tensor lies in memory")

    def clean(argument: Any) -> Any:
        return DEVICE if isinstance(argument, torch.device) else argument

    kwargs = {name: value for name, value in node.kwargs.items() if name != "pin_memory"}
    return map_aggregate(node.args, clean), map_aggregate(kwargs, clean)


def _result(value: Any, functionalizer: Functionalizer) -> fx.Node:
    if not isinstance(value, fx.Node):
        raise StrategyFailedError(f"the traced graph returns the constant {value!r} in the place of a tensor")
    return functionalizer.read(value)
