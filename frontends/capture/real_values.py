"""Capture by running the model on its real inputs, for models that branch on tensor values.

The trace holds for inputs that give the same values wherever the model reads one into Python; see ``escapes``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx

from fastvideo_ir.errors import FastVideoError
from fastvideo_ir.program import ParamKind

from .eager_calls import EagerCalls, Reason
from .escapes import EscapeRecorder
from .export import reason_of
from .flex import open_flex_attention
from .kernels import compiled_functions_opened
from .location import Locator
from .module_stack import ModuleStack
from .quiet import quiet
from .signature import BoundCall
from .state import unchanged
from .trace import FlatModel, Source, StrategyFailedError, Trace


def trace_with_real_values(model: nn.Module, call: BoundCall, stay_eager: Mapping[str, Reason]) -> Trace:
    """Trace ``call`` with ``make_fx`` on real tensors.

    Args:
        model: the model.
        call: the call.
        stay_eager: modules whose calls are not traced, by path.

    Raises:
        InvalidArgumentError: the model writes to its weights or inputs.
        MustStayEagerError: the call of one of these modules cannot stand in a program, but that around it may.
        StrategyFailedError: the tracer refuses the model.
    """
    weights = _weights(model)
    locator = Locator(model)
    stack = ModuleStack(model)
    eager_calls = EagerCalls(stay_eager, stack)

    @contextmanager
    def watched() -> Iterator[None]:
        # Calls of modules are taken over in here, since make_fx takes them over as well.
        with eager_calls.kept_out(), EscapeRecorder(locator.is_own, lambda: eager_calls.running):
            yield

    flat = FlatModel(model, call, watched)
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
            stack.followed(),
            open_flex_attention(),
            compiled_functions_opened(),
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
    return Trace(
        traced.graph, sources, names[count:], flat.results.output, reads_values=True, functions=eager_calls.functions
    )


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
        placeholder.meta["val"] = value
        node.replace_all_uses_with(placeholder)
        graph.erase_node(node)
        yield placeholder.name, Source(str(node.target).lstrip("_"), ParamKind.CONSTANT, value)
