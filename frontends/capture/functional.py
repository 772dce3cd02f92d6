"""Mutation in a trace becomes new values: only the ops that mutate are rewritten, with the views they write through.

A *shadow* of every traced value is kept on meta tensors under the trace's own, mutating semantics. Two values alias
where their shadows share storage. Each alias is reached from the value that made the storage (its root) by a chain of
view ops. A write to an alias is carried back along that chain (``slice`` becomes ``slice_scatter``), which gives the
root a new version; other aliases are derived anew from it when they are next read.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.types import TensorType

from . import views
from .builder import GraphBuilder, to_meta


@dataclass(frozen=True)
class Alias:
    """The view op that made an alias, in terms of traced nodes.

    Attributes:
        parent: the traced value that it is a view of.
        target: the op; None where it is ``parent`` itself, as the result of an in-place op is.
        args, kwargs: of the op.
    """

    parent: fx.Node
    target: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Functionalizer:
    """Emits traced nodes into a builder, without mutation.

    Args:
        builder: receives the functional ops.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._protected: dict[fx.Node, str] = {}
        self._current: dict[fx.Node, fx.Node] = {}
        self._seen_version: dict[fx.Node, int] = {}
        self._shadows: dict[fx.Node, Any] = {}
        self._aliases: dict[fx.Node, Alias] = {}
        self._versions: dict[int, int] = {}

    def define(self, traced: fx.Node, node: fx.Node, what: str) -> None:
        """``node`` is the value of a traced placeholder, which nobody may write to; ``what`` names it in errors."""
        self._current[traced] = node
        self._shadows[traced] = to_meta(self._builder.tensor(node))
        self._protected[traced] = what

    def read(self, traced: fx.Node) -> fx.Node:
        """The node that now holds the value of ``traced``."""
        version = self._version(traced)
        alias = self._aliases.get(traced)
        if alias and self._seen_version[traced] != version:
            if alias.target is None:
                self._current[traced] = self.read(alias.parent)
            else:
                args, kwargs = self._resolve(alias.args), self._resolve(alias.kwargs)
                self._current[traced] = self._builder.emit(alias.target, args, kwargs)
        self._seen_version[traced] = version
        return self._current[traced]

    def call(self, traced: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Emit what ``traced`` computes.

        Args:
            args, kwargs: its arguments without device literals; still traced nodes.

        Raises:
            InvalidArgumentError: it writes to a parameter, a buffer or an input.
            StrategyFailedError: it has no functional form, or its result depends on the values of tensors.
        """
        target: Any = traced.target
        shadow = self._builder.runs.run(target, args, kwargs, self._shadows.__getitem__, self._builder.location)
        self._shadows[traced] = shadow
        written = views.written_argument(target, args, kwargs)
        if written is not None:
            self._write(traced, written, args, kwargs)
            return
        parent = self._parent(traced, args, kwargs)
        if parent is not None:
            self._aliases[traced] = Alias(parent, target, args, kwargs)
        emitted = self._builder.emit(target, self._resolve(args), self._resolve(kwargs), name=traced.name)
        self._current[traced] = emitted
        self._seen_version[traced] = self._version(traced)

    def call_eager(self, traced: fx.Node, types: Sequence[TensorType]) -> None:
        """Emit a call of Python, whose operands and results are what they are at this point."""
        operands, function = traced.args
        emitted = self._builder.emit_eager_call(self._resolve(operands), str(function), types, traced.name)
        self._shadows[traced] = [to_meta(tensor) for tensor in self._builder.values[emitted]]
        self._current[traced] = emitted
        self._seen_version[traced] = self._version(traced)

    def _write(self, traced: fx.Node, written: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target: Any = traced.target
        old = self.read(written)
        new = views.functional_call(self._builder, target, self._resolve(args), self._resolve(kwargs), old)
        self._write_back(written, new, target)
        self._aliases[traced] = Alias(written)
        self._current[traced] = new
        self._seen_version[traced] = self._version(traced)

    def _write_back(self, traced: fx.Node, value: fx.Node, writer: Any) -> None:
        """Make ``value`` the content of ``traced``, of its root, and thereby of all their aliases."""
        alias = self._aliases.get(traced)
        if alias is None:
            if traced in self._protected:
                raise InvalidArgumentError(
                    f"the model writes to its {self._protected[traced]} in place "
                    f"({writer} at {self._builder.location}); a compiled model has no side effects",
                    hint="write to a clone() of it, or return the new value",
                )
            key = _storage_key(self._shadows[traced])
            self._versions[key] = self._versions.get(key, 0) + 1
        elif alias.target is None:
            self._write_back(alias.parent, value, writer)
        elif alias.target is operator.getitem:
            pieces = self._aliases[alias.parent]
            shadows, index = self._shadows[alias.parent], alias.args[1]
            whole = self.read(pieces.parent)
            content = views.scatter_piece(self._builder, pieces.target, pieces.args, shadows, index, whole, value)
            self._write_back(pieces.parent, content, writer)
        else:
            whole = self.read(alias.parent)
            content = views.scatter(
                self._builder, alias.target, self._resolve(alias.args[1:]), alias.kwargs, whole, value
            )
            self._write_back(alias.parent, content, writer)
        self._current[traced] = value
        self._seen_version[traced] = self._version(traced)

    def _parent(self, traced: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node | None:
        """The argument that the result of ``traced`` is a view of, if any."""
        if traced.target is operator.getitem:
            return args[0] if args[0] in self._aliases else None
        keys = {_storage_key(tensor) for tensor in _tensors(self._shadows[traced])}
        for argument in traced.all_input_nodes:
            if any(_storage_key(tensor) in keys for tensor in _tensors(self._shadows[argument])):
                return argument
        return None

    def _version(self, traced: fx.Node) -> int:
        keys = {_storage_key(tensor) for tensor in _tensors(self._shadows[traced])}
        return sum(self._versions.get(key, 0) for key in keys)

    def _resolve(self, arguments: Any) -> Any:
        return map_aggregate(arguments, lambda a: self.read(a) if isinstance(a, fx.Node) else a)


def _tensors(shadow: Any) -> list[torch.Tensor]:
    """The tensors of a shadow; None stands for an absent result of an op."""
    items = shadow if isinstance(shadow, (list, tuple)) else [shadow]
    return [item for item in items if isinstance(item, torch.Tensor)]


def _storage_key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
