"""First rewrites of a raw trace: mode regions are opened, views and writes through masks lose their oddity."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .trace import StrategyFailedError
from .views import functional_overload

aten = torch.ops.aten

_BODY_POSITIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Higher-order ops that run a subgraph in some mode: position of the subgraph among the arguments."""

_AUTOCAST = "under_autocast"


def under_autocast(node: fx.Node) -> bool:
    """Whether the model ran this op inside an autocast region."""
    return _AUTOCAST in node.meta


def open_regions(graph: fx.Graph) -> None:
    """Put the bodies of mode regions in their place; what ran under autocast is marked.

    Raises:
        StrategyFailedError: a region of another kind, such as a data-dependent branch.
    """
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if name in _BODY_POSITIONS:
            _open_region(graph, node, name)
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            raise StrategyFailedError(f"the trace contains {node.target}, which programs do not know")
    _mark_between_switches(graph)


def _open_region(graph: fx.Graph, region: fx.Node, name: str) -> None:
    position = _BODY_POSITIONS[name]
    reference = region.args[position]
    assert isinstance(reference, fx.Node)
    body = operator.attrgetter(str(reference.target))(graph.owning_module).graph
    open_regions(body)
    arguments = dict(zip(body.find_nodes(op="placeholder"), region.args[position + 1 :], strict=True))
    values: dict[fx.Node, Any] = dict(arguments)
    with graph.inserting_before(region):
        results: Any = graph.graph_copy(body, values)
    if name == "wrap_with_autocast":
        for inner in body.nodes:
            if inner.op == "call_function":
                values[inner].meta[_AUTOCAST] = True
    for user in list(region.users):
        if user.target is not operator.getitem:
            raise StrategyFailedError(f"{user.target} uses the results of {region.target} as a whole")
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(region)
    if not reference.users:
        graph.erase_node(reference)


def _mark_between_switches(graph: fx.Graph) -> None:
    """Real-value traces hold a pair of switches around a region; they go, and what stands between is marked."""
    depth = 0
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if name == "_enter_autocast":
            depth += 1
        elif name == "_exit_autocast":
            depth -= 1
        elif depth and node.op == "call_function":
            node.meta[_AUTOCAST] = True
    for node in reversed(list(graph.nodes)):
        if getattr(node.target, "__name__", "") in ("_enter_autocast", "_exit_autocast", "_set_grad_enabled"):
            graph.erase_node(node)


def unfold_inplace_views(graph: fx.Graph) -> None:
    """``x.unsqueeze_(0)`` becomes a view, which stands for x from there on."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.inplace_view not in target.tags:
            continue
        view_op, _ = functional_overload(target)
        if view_op._schema.returns[0].alias_info is None:
            raise StrategyFailedError(f"{target} changes the memory of a tensor, and not only its shape")
        with graph.inserting_before(node):
            view = graph.call_function(view_op, node.args, node.kwargs)
        view.meta = dict(node.meta)
        whole = node.args[0]
        assert isinstance(whole, fx.Node)
        node.replace_all_uses_with(view)
        whole.replace_all_uses_with(view, lambda user, here=order[node]: order.get(user, -1) > here)  # type: ignore[misc]
        order[view] = order[node]
        graph.erase_node(node)


def free_views_of_memory(graph: fx.Graph) -> None:
    """``view`` becomes ``reshape``, which holds however a value lies in memory.

    What a write left behind lies as it was computed, and kernels on meta tensors order memory as they like; a tracer
    also leaves out every ``contiguous`` that had nothing to do.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.view.default, aten.view_as.default):
            continue
        with graph.inserting_before(node):
            free = graph.call_function(aten.reshape.default, (node.args[0], list(traced_value(node).shape)))
        free.meta = dict(node.meta)
        node.replace_all_uses_with(free)
        graph.erase_node(node)


def fill_masks(graph: fx.Graph) -> None:
    """``x[mask] = scalar`` becomes ``masked_fill``: writing at true positions has no shape of its own."""
    replacements = {
        aten.index_put_.default: aten.masked_fill_.Tensor,
        aten.index_put.default: aten.masked_fill.Tensor,
    }
    for node in list(graph.nodes):
        if node.target not in replacements or (len(node.args) > 3 and node.args[3]):
            continue
        whole, indices, value = node.args[:3]
        masks = [index for index in indices if index is not None]
        if (
            len(masks) != 1
            or indices[0] is None
            or traced_value(masks[0]).dtype is not torch.bool
            or traced_value(value).numel() != 1
        ):
            continue
        mask = masks[0]
        missing = traced_value(whole).ndim - traced_value(mask).ndim
        new: list[fx.Node] = []
        with graph.inserting_before(node):
            new.append(graph.call_function(aten.reshape.default, (value, [])))
            new.append(graph.call_function(aten.to.dtype, (new[0], traced_value(whole).dtype)))
            scalar = new[1]
            if missing:
                mask = graph.call_function(aten.reshape.default, (mask, [*traced_value(mask).shape, *[1] * missing]))
                new.append(mask)
            filled = graph.call_function(replacements[node.target], (whole, mask, scalar))
        for made in (*new, filled):
            made.meta = dict(node.meta)
        node.replace_all_uses_with(filled)
        graph.erase_node(node)


def traced_value(node: fx.Node) -> torch.Tensor:
    """The tensor that the tracer saw; only its shape and dtype mean something."""
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value
