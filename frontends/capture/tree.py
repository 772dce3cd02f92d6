"""Flat leaves of nested arguments and results.

``torch.utils._pytree`` treats an unregistered dataclass or cache object as one opaque leaf and would hide the tensors
inside it. Here every object that merely holds attributes is opened, and what cannot be a part of a program is refused
with its path.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils import _pytree

from fastvideo_ir.errors import InvalidArgumentError

_HEAP_TYPE = 1 << 9
"""Set in ``__flags__`` of classes that were made by a class statement."""

_CONSTANTS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    enum.Enum,
    slice,
    range,
    frozenset,
    type,
    type(...),
    np.generic,
    np.dtype,
    torch.Size,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


@dataclass(frozen=True, slots=True)
class TensorLeaf:
    """Where the ``index``-th tensor stands. A tensor that occurs twice has one index."""

    index: int


@dataclass(frozen=True, slots=True)
class ConstantLeaf:
    """A value that is no tensor. ``key`` tells ``1``, ``1.0`` and ``True`` apart, and equals itself for nan."""

    key: Hashable
    value: Any = dataclasses.field(compare=False)


@dataclass(frozen=True, slots=True)
class Branch:
    """A container: its type, what is needed to build it again, its children's names and trees."""

    type: type
    context: Hashable
    names: tuple[str, ...]
    children: tuple[Tree, ...]
    build: Callable[[list[Any]], Any] = dataclasses.field(compare=False)


Tree: TypeAlias = TensorLeaf | ConstantLeaf | Branch


def flatten_result(value: Any) -> tuple[Tree, list[torch.Tensor]]:
    """The structure of what a model returned, and its distinct tensors in order of occurrence.

    Args:
        value: any nest of containers, dataclasses and attribute holders.

    Raises:
        InvalidArgumentError: a leaf is neither a tensor nor a constant that can be part of a cache key.
    """
    flattener = _Flattener("result")
    return flattener.visit(value, ""), flattener.tensors


def flatten_arguments(arguments: dict[str, Any]) -> tuple[Tree, list[torch.Tensor], list[str]]:
    """Structure, distinct tensors and their paths of a call's arguments by name.

    Raises:
        InvalidArgumentError: a leaf is neither a tensor nor a constant that can be part of a cache key.
    """
    flattener = _Flattener("argument")
    names = tuple(arguments)
    trees = tuple(flattener.visit(value, name) for name, value in arguments.items())
    branch = Branch(dict, names, names, trees, lambda parts: dict(zip(names, parts, strict=True)))
    return branch, flattener.tensors, flattener.paths


def unflatten(tree: Tree, tensors: Sequence[torch.Tensor]) -> Any:
    """Inverse of the flattening functions, with other tensors; containers are new objects."""
    if isinstance(tree, TensorLeaf):
        return tensors[tree.index]
    if isinstance(tree, ConstantLeaf):
        return tree.value
    return tree.build([unflatten(child, tensors) for child in tree.children])


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, TensorLeaf | ConstantLeaf]]:
    """Path and leaf of every leaf, in order."""
    if isinstance(tree, Branch):
        for name, child in zip(tree.names, tree.children, strict=True):
            yield from leaves(child, join(path, name))
    else:
        yield path, tree


def join(path: str, name: str) -> str:
    """``a`` and ``b`` give ``a.b``; ``a`` and ``[0]`` give ``a[0]``."""
    return path + name if not path or name.startswith("[") else f"{path}.{name}"


class _Flattener:
    def __init__(self, noun: str) -> None:
        self._noun = noun
        self.tensors: list[torch.Tensor] = []
        self.paths: list[str] = []
        self._indices: dict[int, int] = {}
        self._open: set[int] = set()

    def visit(self, value: Any, path: str) -> Tree:
        where = f"{self._noun} {path!r}" if path else f"the {self._noun}"
        if isinstance(value, torch.Tensor):
            return TensorLeaf(self._index(value, path))
        if isinstance(value, _CONSTANTS):
            return ConstantLeaf(_constant_key(value, where), value)
        if id(value) in self._open:
            raise InvalidArgumentError(f"{where} contains itself")
        self._open.add(id(value))
        try:
            kind, context, children, build = _open_container(value, where)
            trees = tuple(self.visit(child, join(path, name)) for name, child in children)
        finally:
            self._open.discard(id(value))
        return Branch(kind, context, tuple(name for name, _ in children), trees, build)

    def _index(self, tensor: torch.Tensor, path: str) -> int:
        if id(tensor) not in self._indices:
            self._indices[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
            self.paths.append(path)
        return self._indices[id(tensor)]


_Opened: TypeAlias = tuple[type, Hashable, list[tuple[str, Any]], Callable[[list[Any]], Any]]


def _open_container(value: Any, where: str) -> _Opened:
    kind = type(value)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _open_output_class(value)
    if kind in (dict, OrderedDict):
        keys = tuple(value)
        key_leaves = tuple(_constant_key(key, where) for key in keys)
        children = [(f"[{key!r}]", value[key]) for key in keys]
        return kind, key_leaves, children, lambda parts: kind(zip(keys, parts, strict=True))
    if kind in (list, tuple):
        return kind, None, [(f"[{i}]", item) for i, item in enumerate(value)], kind
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        fields = list(zip(kind._fields, value, strict=True))
        return kind, None, fields, lambda parts: kind(*parts)
    if kind in _pytree.SUPPORTED_NODES and not dataclasses.is_dataclass(kind):
        node = _pytree.SUPPORTED_NODES[kind]
        items, context = node.flatten_fn(value)
        indexed = [(f"[{i}]", item) for i, item in enumerate(items)]
        return kind, _constant_key(context, where), indexed, lambda parts: node.unflatten_fn(parts, context)
    if _is_attribute_holder(value):
        names = _attribute_names(value)
        attributes = [(name, getattr(value, name)) for name in names]
        return kind, names, attributes, lambda parts: _new_holder(kind, names, parts)
    raise InvalidArgumentError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be part of a compiled model's call",
        hint="pass tensors, numbers, strings, None, or containers and dataclasses of these",
    )


def _open_output_class(value: Any) -> _Opened:
    """A dataclass that is a dict of its fields which are not None, as the results of model libraries are."""
    kind = type(value)
    names = tuple(field.name for field in dataclasses.fields(kind))
    children = [(name, getattr(value, name)) for name in names]
    return kind, names, children, lambda parts: kind(**dict(zip(names, parts, strict=True)))


def _is_attribute_holder(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, (torch.nn.Module, dict, list, tuple, set)):
        return False
    if dataclasses.is_dataclass(kind):
        return True
    if callable(value):
        return False
    # Types written in C keep state that their __dict__ does not show.
    written_in_python = all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__)
    return hasattr(value, "__dict__") and written_in_python


def _attribute_names(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        declared = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    else:
        declared = [name for name in _slots(type(value)) if hasattr(value, name)]
    return tuple(dict.fromkeys([*declared, *getattr(value, "__dict__", {})]))


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _new_holder(kind: type, names: tuple[str, ...], parts: list[Any]) -> Any:
    result: Any = object.__new__(kind)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(result, name, part)
    return result


def _constant_key(value: Any, where: str) -> Hashable:
    if isinstance(value, (float, complex, np.generic)) and not isinstance(value, (np.str_, np.bytes_)):
        # nan differs from itself, and 0.0 equals -0.0.
        return type(value), repr(value)
    if isinstance(value, slice):
        return slice, tuple(_constant_key(part, where) for part in (value.start, value.stop, value.step))
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value), tuple(_constant_key(part, where) for part in value)
    try:
        hash(value)
    except TypeError as error:
        raise InvalidArgumentError(
            f"{where} is a {type(value).__qualname__} that cannot be hashed, so it cannot be part of a cache key",
            hint="pass tensors, numbers, strings, None, or containers and dataclasses of these",
        ) from error
    return type(value), value


def is_constant(value: Any) -> bool:
    """Whether ``value`` is a constant, and not a container or a tensor."""
    return isinstance(value, _CONSTANTS)
