"""The pages of docs/ say what is so: their programs parse, their code is the examples', their error texts exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastvideo_ir as ir
from fastvideo.passes.pipelines import Target, default_pipeline

from .blocks import PAGES, ROOT, blocks

DOCS = ROOT / "docs"
PROGRAMS = blocks(DOCS / "ir.md", "fvir")


@pytest.mark.torch("2.13")  # which ops there are depends on torch
def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", PROGRAMS)
def test_programs_parse_verify_and_print_back(text: str) -> None:
    program = ir.parse_program(text)
    ir.verify(program)
    assert ir.print_program(program) == text


def test_programs_are_what_the_passes_make() -> None:
    captured, planned, communicating = PROGRAMS
    program = ir.parse_program(captured)
    steps = default_pipeline(Target(ranks=2))
    place = [step.name for step in steps].index("plan-sharding") + 1
    ir.run_passes(program, steps[:place])
    assert _calls(ir.print_program(program)) == _calls(planned)
    ir.run_passes(program, steps[place:])
    assert _calls(ir.print_program(program)) == _calls(communicating)


def _calls(text: str) -> list[str]:
    """Types and ops, line by line; names and provenance are free."""
    plain = re.sub(r' (by|loc)\(.*?"[^()]*\)', "", text)
    return re.sub(r"%\w+", "%", plain).splitlines()


@pytest.mark.parametrize(
    "text", re.findall(r"^\| `((?:\w+\[|\().*?)` \|", (DOCS / "ir.md").read_text(encoding="utf-8"), re.M)
)
def test_types_parse_and_print_back(text: str) -> None:
    assert str(ir.types.parse_type(text)) == text


@pytest.mark.parametrize(
    ("page", "example"),
    [("tutorial-pass", "my_pass"), ("tutorial-backend", "my_backend"), ("tutorial-pipeline", "my_pipeline")],
)
def test_tutorials_show_the_examples(page: str, example: str) -> None:
    source = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")
    shown = blocks(DOCS / f"{page}.md", "python")
    assert shown and all(block in source for block in shown)


def test_error_texts_exist() -> None:
    """What stands in backticks before a meaning, or in running text with an ellipsis, is said by the code."""
    folders = ("fastvideo", "fastvideo_ir", "frontends", "passes", "backends", "runtime")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that go on in the next line
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.M) + re.findall(r"`([^`]*…[^`]*)`", page)
    assert len(quoted) > 15
    parts = [" ".join(part.split()) for text in quoted for part in text.split("…")]
    missing = [part for part in parts if part.strip(" :") and part.strip(" :") not in source]
    assert not missing, f"no error text has {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
