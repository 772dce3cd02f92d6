"""Builds a program's graph node by node; every node is run on meta tensors to learn its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fastvideo_ir.dialect import eager_call
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.program import DEVICE, EagerFunction, Location, NodeInfo, Param, Program, Provenance, set_info
from fastvideo_ir.types import DTYPE_NAMES, TensorType, TupleType, ValueType

from .meta_runs import MetaRuns
from .trace import Source, StrategyFailedError

_PROVENANCE = Provenance("capture")


class GraphBuilder:
    """A graph under construction.

    Args:
        functions: what eager calls run, by name.

    Attributes:
        graph: the nodes emitted so far.
        values: per node, its result on meta tensors: shapes, dtypes and aliasing without data.
        location: stamped on every node that is emitted next.
        runs: runs ops on meta tensors.
    """

    def __init__(self, functions: Mapping[str, EagerFunction]) -> None:
        self._functions = functions
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.location = Location()
        self.runs = MetaRuns()
        self._params: dict[str, Param] = {}

    def param(self, source: Source) -> fx.Node:
        """A placeholder for a weight or constant; ``source.name`` must be unique."""
        node = self._placeholder(f"{source.kind.value[0]}_{source.name}", source.tensor)
        self._params[node.name] = Param(source.name, source.kind)
        return node

    def input(self, path: str, tensor: torch.Tensor) -> fx.Node:
        """A placeholder for an input tensor."""
        return self._placeholder(path, tensor)

    def emit(self, target: Callable[..., Any], args: Any, kwargs: Any = None, *, name: str | None = None) -> fx.Node:
        """Add a call and infer its type.

        Raises:
            StrategyFailedError: the result depends on the values of tensors, or is no tensor.
        """
        kwargs = kwargs or {}
        value = self.runs.run(target, args, kwargs, self.values.__getitem__, self.location)
        node = self.graph.create_node("call_function", target, tuple(args), kwargs, name=name)
        self._record(node, value, f"{target} at {self.location}")
        return node

    def emit_eager_call(
        self, operands: list[fx.Node], function: str, types: Sequence[TensorType], name: str
    ) -> fx.Node:
        """Add a call of Python that yields a row of tensors."""
        node = self.graph.create_node("call_function", eager_call, (operands, function), name=name)
        self._record(node, [torch.empty(kind.shape, dtype=kind.dtype, device=DEVICE) for kind in types], function)
        return node

    def finish(self, results: list[fx.Node], *, keep_draws: bool = True) -> Program:
        """A program that returns ``results``; dead code and unused weights go. Can be called several times.

        Args:
            keep_draws: random ops stay even where nobody reads them, for the sake of those that follow.
        """
        program = Program(self.graph, self._params, functions=self._functions).copy()
        by_name = {node.name: node for node in program.nodes}
        output = program.graph.output(tuple(by_name[result.name] for result in results))
        set_info(output, NodeInfo(None))
        program.graph.eliminate_dead_code(is_impure_node=_must_stay if keep_draws else _is_end)
        for node in program.param_nodes:
            if not node.users:
                del program.params[node.name]
                program.graph.erase_node(node)
        program.graph.lint()
        return program

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The meta tensor of a node that yields one."""
        value = self.values[node]
        assert isinstance(value, torch.Tensor)
        return value

    def _placeholder(self, name: str, tensor: torch.Tensor) -> fx.Node:
        identifier = "".join(c if c.isalnum() else "_" for c in name).strip("_")
        node = self.graph.placeholder(identifier)
        node.target = node.name
        self._record(node, to_meta(tensor), f"placeholder {name}")
        return node

    def _record(self, node: fx.Node, value: Any, what: str) -> None:
        node.meta = {}
        self.values[node] = value
        set_info(node, NodeInfo(_type_of(value, what), self.location, _PROVENANCE))


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without data and with the same shape, strides and dtype."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


def _type_of(value: Any, what: str) -> ValueType:
    if isinstance(value, torch.Tensor):
        if value.dtype not in DTYPE_NAMES:
            raise StrategyFailedError(f"{what} yields {value.dtype}, which programs do not know")
        return TensorType.of(value)
    if isinstance(value, (tuple, list)):
        elements = [None if element is None else _type_of(element, what) for element in value]
        if all(element is None or isinstance(element, TensorType) for element in elements):
            return TupleType(tuple(elements))  # type: ignore[arg-type]
    raise StrategyFailedError(f"{what} yields a {type(value).__name__}, which depends on the values of tensors")


def _is_end(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def _must_stay(node: fx.Node) -> bool:
    """Inputs keep the call's arity, and random ops keep the order of random numbers."""
    return _is_end(node) or runs_on_first_rank(node)
