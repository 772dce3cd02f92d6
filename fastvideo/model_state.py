"""Notices that a model's weights, or what its modules hold in Python, are no longer what they were."""

from __future__ import annotations

from collections.abc import Iterator, Set
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

Setting = tuple[str, dict[str, Any], str, Any]
"""Path of an attribute, what holds it, its name there, and its value."""

_MISSING = object()


class ModelState:
    """``model`` as it was when :meth:`accept` was called last, and before that when this was made.

    Watched are its weights; tensors that are plain attributes; and its *settings*: numbers, texts, flags, dtypes and
    functions that are attributes of its modules or items of lists and dicts that are. A program holds what they were.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes = {
            f"{path}.{name}".lstrip("."): (vars(module), name)
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }
        self._ignored: frozenset[str] = frozenset()
        self.accept()

    @property
    def changed(self) -> bool:
        """Whether anything is other than it was."""
        return self._structure.changed or not all(seen.is_same for seen in self._weights) or self.attributes_changed

    @property
    def attributes_changed(self) -> bool:
        """Whether a tensor that is a plain attribute, or a setting, is."""
        return not all(seen.is_same for seen in self._plain) or self.changed_setting is not None

    @property
    def changed_setting(self) -> str | None:
        """Path of a setting that is other than it was. What has been added to a list or dict is none: caches grow."""
        for path, held, name, before in self._settings:
            now = held.get(name, _MISSING)
            if now is not before and not _same(before, now):
                return path
        return None

    def accept(self, ignored: Set[str] = frozenset()) -> None:
        """Take everything as it is now.

        Args:
            ignored: paths of what every call of the model sets anew or adds to: nothing depends on it.
        """
        self._ignored |= ignored
        self._structure = _Structure(self._model)
        self._weights = [
            _Seen(held, name)
            for path, module in self._model.named_modules()
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None and f"{path}.{name}".lstrip(".") not in self._ignored
        ]
        self._plain = [
            _Seen(held, name) for path, (held, name) in self._attributes.items() if path not in self._ignored
        ]
        self._settings = [setting for setting in _settings(self._model) if setting[0] not in self._ignored]


class _Structure:
    """Which modules a model has, and how many parameters and buffers each of them.

    Every call asks whether it is the same, and ``named_parameters()`` of a large model takes milliseconds.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._children = [(m._modules, name, id(child)) for m in modules for name, child in m._modules.items()]
        self._sizes = [(held, len(held)) for m in modules for held in (m._modules, m._parameters, m._buffers)]

    @property
    def changed(self) -> bool:
        return any(len(held) != size for held, size in self._sizes) or any(
            id(held.get(name)) != child for held, name, child in self._children
        )


class _Seen:
    """A tensor as it was; another one in its place, a write and another storage are changes.

    Its memory may move, as when it is shared with worker processes.
    """

    __slots__ = ("_held", "_id", "_name", "_place", "_storage", "_version")

    def __init__(self, held: dict[str, Any], name: str) -> None:
        self._held, self._name = held, name
        tensor = held.get(name)
        self._id = id(tensor)
        self._version, self._place, self._storage = _version(tensor), _place(tensor), _storage(tensor)

    @property
    def is_same(self) -> bool:
        now = self._held.get(self._name)
        if id(now) != self._id or _version(now) != self._version:
            return False
        return _place(now) == self._place or _storage(now) == self._storage


def _version(tensor: Any) -> int:
    return 0 if not isinstance(tensor, Tensor) or tensor.is_inference() else tensor._version


def _place(tensor: Any) -> int:
    return tensor.data_ptr() if isinstance(tensor, Tensor) else 0


def _storage(tensor: Any) -> int:
    return tensor.untyped_storage()._cdata if isinstance(tensor, Tensor) else 0


def _settings(model: nn.Module) -> Iterator[Setting]:
    for path, module in model.named_modules():
        held = vars(module)
        yield f"{path}.forward".lstrip("."), held, "forward", held.get("forward", _MISSING)
        for name, value in held.items():
            if name != "forward" and (_is_setting(value) or (type(value) in (list, dict) and _items(value))):
                yield f"{path}.{name}".lstrip("."), held, name, value if _is_setting(value) else value.copy()


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, FunctionType, BuiltinFunctionType))


def _items(container: list[Any] | dict[Any, Any]) -> dict[Any, Any]:
    """Those that are settings, by key or index."""
    pairs = container.items() if isinstance(container, dict) else enumerate(container)
    return {key: value for key, value in pairs if _is_setting(value)}


def _same(before: Any, now: Any) -> bool:
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    if isinstance(before, (list, dict)):
        items = _items(now)
        return all(key in items and _same(value, items[key]) for key, value in _items(before).items())
    return bool(before == now)
