"""Capture by running the model on its real inputs, for models that branch on tensor values.

The trace holds for inputs that give the same values wherever the model reads one into Python; see ``escapes``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as nn_module

from fastvideo_ir.errors import FastVideoError
from fastvideo_ir.program import ParamKind

from .escapes import EscapeRecorder
from .export import reason_of
from .location import Locator
from .quiet import quiet
from .signature import BoundCall
from .state import unchanged
from .trace import FlatModel, Source, StrategyFailedError, Trace


def trace_with_real_values(model: nn.Module, call: BoundCall) -> Trace:
    """Trace ``call`` with ``make_fx`` on real tensors.

    Raises:
        InvalidArgumentError: the model writes to its weights or inputs.
        StrategyFailedError: the tracer refuses the model.
    """
    weights = _weights(model)
    locator = Locator(model)
    flat = FlatModel(model, call, lambda: EscapeRecorder(locator.is_own))
    inputs = [tensor.clone() for tensor in call.tensors]
    count = len(weights)
    tracer = make_fx(
        lambda *tensors: flat(*tensors[count:]),
        tracing_mode="real",
        pre_dispatch=True,
        _error_on_data_dependent_ops=False,
    )
    try:
        with (
            torch.no_grad(),
            quiet(),
            fx_traceback.preserve_node_meta(),
            _module_paths(model),
            unchanged(model, call, inputs),
        ):
            traced = tracer(*(source.tensor for source in weights), *inputs)
    except FastVideoError:
        raise
    except Exception as error:  # a tracer may fail in any way; the reason is kept
        raise StrategyFailedError(reason_of(error, model)) from error
    assert flat.results.output is not None, "the tracer has run the model"
    names = [node.name for node in traced.graph.find_nodes(op="placeholder")]
    sources = dict(zip(names[:count], weights, strict=True))
    sources.update(_lift_constants(traced))
    return Trace(traced.graph, sources, names[count:], flat.results.output, reads_values=True)


def _weights(model: nn.Module) -> list[Source]:
    result = [Source(name, ParamKind.PARAMETER, tensor) for name, tensor in model.named_parameters()]
    return result + [Source(name, ParamKind.BUFFER, tensor) for name, tensor in model.named_buffers()]


def _lift_constants(traced: fx.GraphModule) -> Iterator[tuple[str, Source]]:
    """Turn the tensors that the tracer hung on the module into placeholders."""
    graph = traced.graph
    first = next(iter(graph.nodes))
    for node in list(graph.find_nodes(op="get_attr")):
        value = operator.attrgetter(str(node.target))(traced)
        if not isinstance(value, torch.Tensor):
            raise StrategyFailedError(f"the traced graph holds {node.target!r}, a {type(value).__name__}")
        with graph.inserting_before(first):
            placeholder = graph.placeholder(f"constant_{node.name}")
        node.replace_all_uses_with(placeholder)
        graph.erase_node(node)
        yield placeholder.name, Source(str(node.target).lstrip("_"), ParamKind.CONSTANT, value)


@contextmanager
def _module_paths(model: nn.Module) -> Iterator[None]:
    """Stamps every traced op with the path of the innermost module that runs."""
    paths = {module: path for path, module in model.named_modules()}
    running: list[Any] = []

    def enter(module: nn.Module, args: Any) -> None:
        if module in paths:
            running.append((paths[module], type(module).__qualname__))
            fx_traceback.current_meta["nn_module_stack"] = {str(i): entry for i, entry in enumerate(running)}

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        if module in paths:
            running.pop()
            fx_traceback.current_meta["nn_module_stack"] = {str(i): entry for i, entry in enumerate(running)}

    handles = [
        nn_module.register_module_forward_pre_hook(enter),
        nn_module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
