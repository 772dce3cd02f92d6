"""The examples as modules, which worker processes can import; what they register is there for one test only."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

from fastvideo import extension
from fastvideo.backends.attention import registry as backend_registry
from fastvideo.passes import registry as pass_registry

EXAMPLES = Path(__file__).parents[2] / "examples"

_TABLES: tuple[tuple[Any, str], ...] = (
    (pass_registry, "_registered"),
    (backend_registry, "_registered"),
    (extension, "_homes"),
)
_entries: dict[str, list[dict[Any, Any]]] = {}
"""What each example has put into each of the tables; an op can be registered once in a process."""


class LoadExample(Protocol):
    def __call__(self, name: str) -> ModuleType: ...


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> LoadExample:
    """Imports an example by its name, and forgets what it registered at the end of the test."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES)
        before = [dict(getattr(home, table)) for home, table in _TABLES]
        own = _entries.get(name, [{} for _ in _TABLES])
        for (home, table), entries, added in zip(_TABLES, before, own, strict=True):
            monkeypatch.setattr(home, table, {**entries, **added})
        module = importlib.import_module(name)
        if name not in _entries:
            now = [getattr(home, table) for home, table in _TABLES]
            _entries[name] = [
                {key: table[key] for key in table.keys() - entries.keys()}
                for table, entries in zip(now, before, strict=True)
            ]
        return module

    return load
