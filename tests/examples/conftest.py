"""The examples as modules, which worker processes can import; what they register is there for one test only."""

from __future__ import annotations

import importlib
import sys
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
_entries: dict[tuple[str, str], dict[Any, Any]] = {}
"""What each example has put into each table; an op can be registered once in a process."""


class LoadExample(Protocol):
    def __call__(self, name: str) -> ModuleType: ...


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> LoadExample:
    """Imports an example by its name, and forgets what it registered at the end of the test."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES)
        before = {table: dict(getattr(home, table)) for home, table in _TABLES}
        for home, table in _TABLES:
            monkeypatch.setattr(home, table, {**before[table], **_entries.get((name, table), {})})
        is_new = name not in sys.modules
        module = importlib.import_module(name)
        if is_new:
            for home, table in _TABLES:
                now = getattr(home, table)
                _entries[name, table] = {key: now[key] for key in now.keys() - before[table].keys()}
        return module

    return load
