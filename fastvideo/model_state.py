"""Notices that a model's weights, or what its modules hold in Python, are no longer what they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

Versions = list[tuple[int, int, int]]
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
        return self._weights() != self._accepted[0] or self.attributes_changed

    @property
    def attributes_changed(self) -> bool:
        """Whether a tensor that is a plain attribute, or a setting, is."""
        return self._plain_attributes() != self._accepted[1] or self.changed_setting is not None

    @property
    def changed_setting(self) -> str | None:
        """Path of a setting that is other than it was. What has been added to a list or dict is none: caches grow."""
        for path, held, name, before in self._settings:
            if not _same(before, held.get(name, _MISSING)):
                return path
        return None

    def accept(self, ignored: Set[str] = frozenset()) -> None:
        """Take everything as it is now.

        Args:
            ignored: paths of what every call of the model sets anew or adds to: nothing depends on it.
        """
        self._ignored |= ignored
        self._accepted = self._weights(), self._plain_attributes()
        self._settings = [setting for setting in _settings(self._model) if setting[0] not in self._ignored]

    def _weights(self) -> Versions:
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        return _versions([tensor for name, tensor in named if name not in self._ignored])

    def _plain_attributes(self) -> Versions:
        watched = [held for path, held in self._attributes.items() if path not in self._ignored]
        return _versions([value for owner, name in watched if isinstance(value := owner.get(name), Tensor)])


def _versions(tensors: Sequence[Tensor]) -> Versions:
    """Changes when a tensor is replaced, written to, or given another storage; that may move, as when it is shared."""
    return [(id(t), 0 if t.is_inference() else t._version, t.untyped_storage()._cdata) for t in tensors]


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
