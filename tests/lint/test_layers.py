"""Who may import whom, downwards only: fastvideo ▸ runtime ▸ frontends | passes ▸ backends ▸ fastvideo_ir.

Lazy imports, imports under TYPE_CHECKING and ``import_module`` of a literal count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .source_tree import ROOT, Violation, plant, project_files, report

FACE = "fastvideo"
BELOW: dict[str, set[str]] = {
    "fastvideo_ir": set(),
    "backends": {"fastvideo_ir"},
    "passes": {"backends", "fastvideo_ir"},
    "frontends": {"backends", "fastvideo_ir"},
    "runtime": {"frontends", "passes", "backends", "fastvideo_ir"},
    FACE: {"runtime", "frontends", "passes", "backends", "fastvideo_ir"},
}
LINKED = set(BELOW) - {FACE, "fastvideo_ir"}


def layer_violations(root: Path) -> list[Violation]:
    """Every import in the packages under ``root`` that goes up or sideways."""
    violations = []
    for path in project_files(root, ".py"):
        layer = path.parts[0]
        if layer not in BELOW:
            continue
        package = package_of(path)
        for line, module in imported_modules(ast.parse((root / path).read_text()), package):
            fault = fault_of(layer, module)
            if fault:
                violations.append(Violation(path, line, fault))
    return violations


def fault_of(layer: str, module: str) -> str | None:
    top = module.split(".")[0]
    if top in LINKED:
        return f"imports {module}: it is {FACE}.{module}, and a second copy of every class by this name"
    target = layer_of(module)
    if target is None or target == layer or target in BELOW[layer]:
        return None
    allowed = ", ".join(sorted(BELOW[layer])) or "nothing of ours"
    return f"{layer} imports {module}, but may import only {allowed}"


def layer_of(module: str) -> str | None:
    """The layer that a dotted name belongs to; None for other people's modules."""
    top, _, rest = module.partition(".")
    if top == FACE:
        inner = rest.split(".")[0]
        return inner if inner in LINKED else FACE
    return top if top in BELOW else None


def package_of(path: Path) -> list[str]:
    """The package against which relative imports of this file resolve."""
    folders = list(path.parent.parts)
    return [FACE, *folders] if folders[0] in LINKED else folders


def imported_modules(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve("." * node.level + (node.module or ""), package)
            # A name may be a module (from .. import passes) or an attribute. That matters only if base is the
            # face itself, and there the name decides.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            name = dynamic_import(node)
            if name:
                yield node.lineno, resolve(name, package)


def dynamic_import(call: ast.Call) -> str | None:
    """The literal name in ``importlib.import_module("…")`` or ``__import__("…")``."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in {"import_module", "__import__"} or not call.args:
        return None
    name = call.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def resolve(name: str, package: list[str]) -> str:
    """An absolute dotted name; each leading dot but the first climbs one package."""
    climbs = len(name) - len(name.lstrip("."))
    if climbs == 0:
        return name
    base = package[: len(package) - (climbs - 1)]
    return ".".join([*base, name.lstrip(".")]).rstrip(".")


def test_imports_go_downwards() -> None:
    violations = layer_violations(ROOT)
    assert not violations, report(violations)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("passes/plan.py", "from ..frontends import capture"),
        ("passes/plan.py", "from .. import frontends"),
        ("passes/plan.py", "from .. import compile"),
        ("passes/plan.py", "import fastvideo"),
        ("passes/plan.py", "def run():\n    import fastvideo.runtime.local"),
        ("passes/deep/plan.py", "from ...runtime.local import run"),
        ("frontends/capture.py", "if TYPE_CHECKING:\n    from ..passes import plan"),
        ("frontends/__init__.py", "from fastvideo.passes import plan"),
        ("backends/sdpa.py", "import importlib\nimportlib.import_module('..passes.plan', __package__)"),
        ("backends/sdpa.py", "__import__('fastvideo.cli')"),
        ("fastvideo_ir/ops/matmul.py", "from fastvideo.backends import attention"),
        ("runtime/pipeline/denoise.py", "from ...compile import compile"),
        ("fastvideo/cli.py", "import passes.plan"),
    ],
)
def test_upward_import_is_found(tmp_path: Path, path: str, source: str) -> None:
    plant(tmp_path, path, source)
    assert [str(violation.path) for violation in layer_violations(tmp_path)] == [path]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "passes/plan.py",
            "import fastvideo_ir as ir\nfrom ..backends import sdpa\nfrom .pipelines import x",
        ),
        ("passes/__init__.py", "from . import plan\nfrom .. import backends"),
        ("runtime/pipeline/denoise.py", "from ...passes import plan\nfrom ..mp import run\nimport torch"),
        ("fastvideo/cli.py", "from . import runtime\nfrom .compile import compile\nimport fastvideo_ir"),
        ("fastvideo_ir/verify.py", "from .ops import matmul\nfrom fastvideo_ir.types import Type"),
        ("tests/test_plan.py", "import fastvideo.runtime, fastvideo.passes"),
    ],
)
def test_downward_import_passes(tmp_path: Path, path: str, source: str) -> None:
    plant(tmp_path, path, source)
    assert layer_violations(tmp_path) == []


def test_every_layer_of_the_project_is_read() -> None:
    read = {path.parts[0] for path in project_files(ROOT, ".py")}
    assert set(BELOW) <= read
