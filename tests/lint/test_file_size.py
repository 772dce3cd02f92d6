"""A file does one thing: past 400 lines it is two files."""

from __future__ import annotations

from pathlib import Path

from .source_tree import ROOT, Violation, plant, project_files, report

MAX_LINES = 400


def file_size_violations(root: Path) -> list[Violation]:
    """Every Python file under ``root`` that is too long."""
    violations = []
    for path in project_files(root, ".py"):
        lines = len((root / path).read_text().splitlines())
        if lines > MAX_LINES:
            violations.append(Violation(path, MAX_LINES + 1, f"{lines} lines, at most {MAX_LINES}"))
    return violations


def test_files_are_small() -> None:
    violations = file_size_violations(ROOT)
    assert not violations, report(violations)


def test_long_file_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "passes/long.py", "x = 1\n" * (MAX_LINES + 1))
    plant(tmp_path, "passes/full.py", "x = 1\n" * MAX_LINES)
    plant(tmp_path, ".venv/lib/other.py", "x = 1\n" * 1000)
    assert [str(violation) for violation in file_size_violations(tmp_path)] == [
        "passes/long.py:401: 401 lines, at most 400"
    ]
