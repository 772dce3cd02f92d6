"""What a model keeps in Python between calls: attributes, the contents of containers among them, and hooks.

A compiled model does not follow such state. While a model is captured it is put back after every run, so that no run
sees what another one has left behind.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

_OF_EVERY_MODULE = frozenset(name for name, value in vars(nn.Module()).items() if not isinstance(value, OrderedDict))
"""What torch keeps in a module, except for its hooks: a model may install its own, and note that it has."""
_MISSING = object()
_DEEPEST = 4
"""How far objects in objects are followed."""


class FrozenStateWarning(UserWarning):
    """The model counts or remembers something in Python; a compiled model does not."""


class PythonState:
    """The attributes of all modules of ``model``, and of plain objects that they hold, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[str, Any, Any]] = []
        self._noticed: dict[str, None] = {}
        self._rebound: set[str] = set()
        self._objects: set[int] = set()
        for path, module in model.named_modules():
            self._remember(path, vars(module))
            self._remember(path, module._buffers)
            for name, value in vars(module).items():
                if name not in _OF_EVERY_MODULE:
                    self._remember_objects(_join(path, name), value)

    @property
    def rebound(self) -> frozenset[str]:
        """Attributes that were bound to another object, or got other contents, while :meth:`kept` was entered."""
        return frozenset(self._rebound)

    def changed(self) -> list[str]:
        """What is no longer as it was, by path."""
        found = [_join(path, name) for path, _, name, _, _ in self._other_attributes()]
        return found + [path for path, container, before in self._containers if not _same_items(container, before)]

    def _changed_values(self) -> list[str]:
        pairs = [(_join(path, name), old, new) for path, _, name, old, new in self._other_attributes()]
        return [what for what, old, new in pairs if _is_value(old) and not _equal(old, new)]

    def restore(self) -> None:
        """Put everything back."""
        for _, held, name, old, _ in list(self._other_attributes()):
            if old is _MISSING:
                del held[name]
            else:
                held[name] = old
        for _, container, before in self._containers:
            if not _same_items(container, before):
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts everything back at the end."""
        try:
            yield
        finally:
            self._noticed |= dict.fromkeys(self._changed_values())
            self._rebound |= {
                _join(path, n) for path, _, n, old, new in self._other_attributes() if not _copied(old, new)
            }
            self._rebound |= {path for path, held, before in self._containers if not _same_items(held, before)}
            self.restore()

    @property
    def noticed(self) -> tuple[str, ...]:
        """Numbers, texts, flags and tensors that have changed while :meth:`kept` was entered."""
        return tuple(self._noticed)

    def _remember(self, path: str, held: dict[str, Any]) -> None:
        now = {name: value for name, value in held.items() if name not in _OF_EVERY_MODULE}
        self._attributes.append((path, held, now))
        for name, value in now.items():
            if type(value) in (list, dict, set, OrderedDict):
                self._containers.append((_join(path, name), value, value.copy()))

    def _remember_objects(self, path: str, value: Any, depth: int = 0) -> None:
        """Attributes of plain objects: of ``value`` itself, of those it holds, and of those in containers."""
        if depth > _DEEPEST:
            return
        if isinstance(value, (list, tuple)):
            held = {f"[{number}]": item for number, item in enumerate(value)}
        elif isinstance(value, dict):
            held = {f"[{name!r}]": item for name, item in value.items()}
        elif _is_plain_object(value) and id(value) not in self._objects:
            self._objects.add(id(value))
            self._remember(path, vars(value))
            held = {f".{name}": item for name, item in vars(value).items()}
        else:
            return
        for name, item in held.items():
            self._remember_objects(f"{path}{name}", item, depth + 1)

    def _other_attributes(self) -> Iterator[tuple[str, dict[str, Any], str, Any, Any]]:
        for path, held, before in self._attributes:
            for name in [
                *before,
                *(name for name in list(held) if name not in before and name not in _OF_EVERY_MODULE),
            ]:
                old, new = before.get(name, _MISSING), held.get(name, _MISSING)
                if old is not new:
                    yield path, held, name, old, new


def warn_of_frozen_state(model: nn.Module, noticed: Sequence[str]) -> None:
    """Warn of what a model counts or remembers, see :attr:`PythonState.noticed`."""
    if noticed:
        warnings.warn(
            f"{type(model).__name__} changes {', '.join(noticed)} while it runs; a compiled model has "
            "no side effects and goes on with the values that it was captured with",
            FrozenStateWarning,
            stacklevel=3,
        )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def _is_plain_object(value: Any) -> bool:
    """An object with attributes of its own, callable or not; functions, classes and modules are none."""
    others = (nn.Module, torch.Tensor, type, ModuleType, functools.partial)
    return hasattr(value, "__dict__") and not isinstance(value, others) and not inspect.isroutine(value)


def _is_value(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, torch.Tensor))


def _equal(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    if not isinstance(old, torch.Tensor):
        return bool(old == new)
    if old.is_meta or new.is_meta:
        return False
    return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device) and torch.equal(old, new)


def _copied(old: Any, new: Any) -> bool:
    """Whether a container was bound to another one with the same items, as tracers do."""
    return type(old) is type(new) and type(old) in (list, dict, set, OrderedDict) and _same_items(old, new)


def _same_items(left: Any, right: Any) -> bool:
    """Whether two containers hold the very same things."""
    if len(left) != len(right):
        return False
    if isinstance(left, dict):
        return all(name in right and right[name] is value for name, value in left.items())
    if isinstance(left, set):
        return bool(left == right)
    return all(a is b for a, b in zip(left, right, strict=True))
