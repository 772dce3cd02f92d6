"""Autocast in the open: what it did to an op's arguments becomes casts in the graph.

Autocast works below the level at which models are traced. Its effect shows in the dtypes that the tracer saw: where
they are not those that the op gives by itself, autocast has cast the op's floating-point arguments to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from .builder import to_meta
from .normalize import under_autocast
from .trace import StrategyFailedError

aten = torch.ops.aten


def insert_casts(graph: fx.Graph) -> None:
    """Cast the arguments of every op that autocast changed.

    Raises:
        StrategyFailedError: the dtypes that the tracer saw cannot be explained by casts of arguments.
    """
    for node in list(graph.nodes):
        seen = node.meta.get("val")
        if not under_autocast(node) or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not isinstance(seen, torch.Tensor) or _dtype_without_autocast(node) == seen.dtype:
            continue
        for argument in node.all_input_nodes:
            _cast(graph, node, argument, seen.dtype)
        if _dtype_without_autocast(node) != seen.dtype:
            raise StrategyFailedError(
                f"{node.target} gives {seen.dtype} under autocast, and not by a cast of its arguments"
            )


def _dtype_without_autocast(node: fx.Node) -> torch.dtype | None:
    """What the op gives for the arguments that stand in the graph; None where it refuses their mix of dtypes."""

    def look_up(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return map_aggregate(argument.meta["val"], lambda v: to_meta(v) if isinstance(v, torch.Tensor) else v)
        return torch.device("meta") if isinstance(argument, torch.device) else argument

    target: Any = node.target
    try:
        result = target(*map_aggregate(node.args, look_up), **map_aggregate(node.kwargs, look_up))
    except RuntimeError:
        return None
    return result.dtype if isinstance(result, torch.Tensor) else None


def _cast(graph: fx.Graph, node: fx.Node, argument: fx.Node, dtype: torch.dtype) -> None:
    """Autocast leaves integers and doubles alone."""
    value = argument.meta["val"]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
        return
    with graph.inserting_before(node):
        cast = graph.call_function(aten.to.dtype, (argument, dtype))
    cast.meta = {**node.meta, "val": to_meta(value).to(dtype)}
    node.replace_input_with(argument, cast)
