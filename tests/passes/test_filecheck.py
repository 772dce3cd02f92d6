"""Every ``programs/*.fvir``: its PASSES line is run, its CHECK lines hold, and it still computes the same,
unless the pass is an approximation.

The files double as documentation: a program before a pass, and what must be in it afterwards.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastvideo_ir as ir
from fastvideo.passes.localize import Localize
from fastvideo.passes.registry import BUILT_IN

from ..ir.filecheck import filecheck
from .running import assert_same_numbers, passes_of, run_passes

FOLDER = Path(__file__).with_name("programs")
FILES = sorted(FOLDER.glob("*.fvir"))


def passes_line(text: str) -> str:
    match = re.search(r"^// PASSES: (.+)$", text, re.MULTILINE)
    assert match, "the file has no line '// PASSES: …'"
    return match[1].strip()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_program_after_its_passes(file: Path) -> None:
    text = file.read_text()
    before = ir.parse_program(text)
    ir.verify(before)
    after = run_passes(before, passes_line(text))
    printed = ir.print_program(after)
    filecheck(printed, text)
    assert ir.print_program(ir.parse_program(printed)) == printed
    approximate = re.search(r"^// TOLERANCE: (.+)$", text, re.MULTILINE)
    if approximate or all(step.preserves_numerics for step in passes_of(passes_line(text))):
        assert_same_numbers(before, after, float(approximate[1]) if approximate else 1e-5)


def test_every_pass_has_a_file() -> None:
    shown = {name for file in FILES for name in re.findall(r"[a-z][\w-]+", passes_line(file.read_text()))}
    assert {step.name for step in (*BUILT_IN, Localize)} <= shown
