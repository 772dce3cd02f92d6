"""Functions that remember their results, as ``functools.lru_cache`` makes them, while a model is traced."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_DEEPEST = 4


@contextmanager
def traced_memos_cleared() -> Iterator[None]:
    """Empties every memo that holds a tracer's tensors at the end: they must not come back in calls of the model."""
    try:
        yield
    finally:
        kind = type(functools.lru_cache(lambda: None))
        for value in _objects():
            if type(value) is kind and _holds_traced(value):
                value.cache_clear()


def _objects() -> Iterator[Any]:
    """All that the collector knows; where ``gc.freeze`` hides what was there, also what modules and classes hold."""
    yield from gc.get_objects()
    if gc.get_freeze_count():
        for module in list(sys.modules.values()):
            for value in list(getattr(module, "__dict__", {}).values()):
                yield value
                if issubclass(type(value), type):  # asks nothing of the value itself
                    yield from list(vars(value).values())


def _holds_traced(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.Tensor):
        return type(value) not in _PLAIN
    if depth > _DEEPEST or (callable(value) and depth):
        return False
    return any(_holds_traced(item, depth + 1) for item in gc.get_referents(value))
