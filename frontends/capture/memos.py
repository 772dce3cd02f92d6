"""Functions that remember their results, as ``functools.lru_cache`` makes them, while a model is traced."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Memo: TypeAlias = "functools._lru_cache_wrapper[Any]"

_KIND = type(functools.lru_cache(lambda: None))
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_DEEPEST = 4


@contextmanager
def traced_memos_cleared() -> Iterator[None]:
    """Empties every memo that holds a tracer's tensors at the end: they must not come back in calls of the model."""
    before = {memo: memo.cache_info() for memo in _memos.all()}
    try:
        yield
    finally:
        for memo in _memos.all():
            # What nobody has called, nobody has filled: many are large, and few are called.
            if memo.cache_info() != before.get(memo) and _holds_traced(memo):
                memo.cache_clear()


class _Memos:
    """All memos of this process, as the garbage collector knows them.

    ``gc.freeze`` hides from it what there was before. Each look leaves a witness; where the next one misses it, there
    was a freeze in between, and what modules and classes hold is looked through as well.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Memo] = weakref.WeakSet()
        self._witness: Memo | None = None

    def all(self) -> list[Memo]:
        found: list[Memo] = [value for value in gc.get_objects() if type(value) is _KIND]
        if all(memo is not self._witness for memo in found):
            found += _of_modules()
        self._witness = functools.lru_cache(_nothing)
        self._known.update(found)
        return list(self._known)


_memos = _Memos()


def _nothing() -> None:
    """What a witness remembers."""


def _of_modules() -> Iterator[Memo]:
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            if type(value) is _KIND:
                yield value
            elif issubclass(type(value), type):  # asks nothing of the value itself
                yield from (member for member in list(vars(value).values()) if type(member) is _KIND)


def _holds_traced(memo: Memo) -> bool:
    """Whether a tensor of another class than PyTorch's own lies within a few steps of what a memo holds."""
    seen: set[int] = set()
    level: list[Any] = [memo]
    for _ in range(_DEEPEST + 1):
        below = {id(value): value for value in gc.get_referents(*level) if id(value) not in seen}
        tensors = [value for value in below.values() if issubclass(type(value), torch.Tensor)]
        if any(type(tensor) not in _PLAIN for tensor in tensors):
            return True
        seen |= below.keys()
        level = [value for value in below.values() if not (issubclass(type(value), torch.Tensor) or callable(value))]
    return False
