"""The structure of a return value as JSON and back. Classes are named, and found among modules that are imported."""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict
from typing import Any

import torch

from .tree import Branch, ConstantLeaf, TensorLeaf, Tree, flatten_result

_PLAIN = (type(None), bool, int, float, str)
_BASIC = {"list": list, "tuple": tuple, "dict": dict, "OrderedDict": OrderedDict}


class NoTextError(Exception):
    """A value cannot be written down, or what was written down cannot be read here; the text says what."""


def tree_to_json(tree: Tree) -> Any:
    """Raises NoTextError for a container or a constant of a kind that has no text."""
    data = _write(tree)
    if tree_from_json(data) != tree:
        raise NoTextError("what the model returns is not the same after it was written down")
    return data


def tree_from_json(data: Any) -> Tree:
    """Inverse of :func:`tree_to_json`. Raises NoTextError where a class is not imported, or has changed."""
    tensors: dict[int, torch.Tensor] = {}
    return flatten_result(_read(data, tensors))[0]


def _write(tree: Tree) -> Any:
    if isinstance(tree, TensorLeaf):
        return {"tensor": tree.index}
    if isinstance(tree, ConstantLeaf):
        if type(tree.value) not in _PLAIN:
            raise NoTextError(f"the model returns a {type(tree.value).__name__}")
        return {"constant": tree.value}
    kind = next((name for name, kind in _BASIC.items() if kind is tree.type), None)
    kind = kind or f"{tree.type.__module__}:{tree.type.__qualname__}"
    return {"kind": kind, "names": _keys(tree), "children": [_write(child) for child in tree.children]}


def _keys(tree: Branch) -> list[str]:
    if tree.type not in (dict, OrderedDict):
        return list(tree.names)
    keys = [key for kind, key in tree.context if kind is str]  # type: ignore[attr-defined]
    if len(keys) != len(tree.children):
        raise NoTextError("the model returns a dict whose keys are not all texts")
    return keys


def _read(data: Any, tensors: dict[int, torch.Tensor]) -> Any:
    """A value of that structure, with empty tensors."""
    if "tensor" in data:
        return tensors.setdefault(data["tensor"], torch.empty(0))
    if "constant" in data:
        return data["constant"]
    names, parts = data["names"], [_read(child, tensors) for child in data["children"]]
    if data["kind"] in ("list", "tuple"):
        return _BASIC[data["kind"]](parts)
    if data["kind"] in _BASIC:
        return _BASIC[data["kind"]](zip(names, parts, strict=True))
    kind = _class(data["kind"])
    if issubclass(kind, tuple):
        return kind(*parts)
    if dataclasses.is_dataclass(kind) and issubclass(kind, dict):
        return kind(**dict(zip(names, parts, strict=True)))
    result = object.__new__(kind)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(result, name, part)
    return result


def _class(text: str) -> type:
    module, _, path = text.partition(":")
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, type):
        raise NoTextError(f"the model returns a {text}, which no imported module has")
    return found
