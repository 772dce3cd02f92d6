"""What tells one model from another: see also tests/e2e/test_plan_cache.py, where it decides what is used again."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastvideo.frontends.capture.fingerprint import NoFingerprintError, fingerprint


def chain(factor: float, length: int = 3000) -> nn.Module:
    """A model whose code is many functions deep."""
    lines = [f"def f{i}(x):\n    return f{i + 1}(x)" for i in range(length)]
    lines += [
        f"def f{length}(x):\n    return x * {factor}",
        "class Net(nn.Module):\n    forward = lambda self, x: f0(x)",
    ]
    module = types.ModuleType("chain")
    vars(module)["nn"] = nn
    exec(compile("\n".join(lines), "chain.py", "exec"), vars(module))
    model: nn.Module = module.Net()
    return model


def test_code_counts_however_deep_it_is() -> None:
    assert fingerprint(chain(1.5)) == fingerprint(chain(1.5)) != fingerprint(chain(2.5))


class Options(dict[str, int]):
    def twice(self) -> int:
        return 2 * self["n"]


def holding(**attributes: Any) -> nn.Module:
    module = nn.Module()
    vars(module).update(attributes)
    return module


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: [1, 2], lambda: (1, 2)),
        (lambda: True, lambda: 1),
        (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
        (lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2)),
        (lambda: torch.zeros(2), lambda: -torch.zeros(2)),
        (lambda: [torch.ones(1)] * 2, lambda: [torch.ones(1), torch.ones(1)]),
        (lambda: types.SimpleNamespace(x=1), lambda: types.SimpleNamespace(x=2)),
        (lambda: torch.float16, lambda: torch.bfloat16),
        (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    ],
    ids=["containers", "kinds", "order", "shapes", "signs", "aliases", "objects", "dtypes", "constants of code"],
)
def test_what_differs_is_told_apart(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert fingerprint(holding(value=one())) == fingerprint(holding(value=one()))
    assert fingerprint(holding(value=one())) != fingerprint(holding(value=other()))


def test_methods_of_containers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(holding(options=Options(n=1)))
    monkeypatch.setattr(Options, "twice", lambda self: 3 * self["n"])
    assert fingerprint(holding(options=Options(n=1))) != before


def test_variables_of_the_environment_that_code_names_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model = holding(choose=lambda get: get("SWITCH_OF_A_MODEL"))
    before = fingerprint(model)
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert fingerprint(model) == before
    monkeypatch.setenv("SWITCH_OF_A_MODEL", "1")
    assert fingerprint(model) != before


def test_what_cannot_be_looked_at_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(NoFingerprintError, match="RecursionError"):
        fingerprint(holding(nested=nested))


@pytest.mark.parametrize("installed", [True, False])
def test_of_a_package_installed_anywhere_what_is_named_counts_alone(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"somebodys_{installed}"
    (tmp_path / f"{name}.py").write_text("class Tool:\n    def unread(self): return 1\n")
    if installed:
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "WHEEL").write_text("Wheel-Version: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tool = importlib.import_module(name).Tool
    before = fingerprint(tool)
    tool.unread = lambda self: 2
    assert (fingerprint(tool) == before) is installed
