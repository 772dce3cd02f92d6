"""Nothing here holds on one machine only: no path of somebody's disk, no host of a package registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .source_tree import ROOT, Violation, plant, project_files, report

# A bracket in each keeps this file from naming what it forbids.
MACHINE_PATH = r"(?<![\w.~$}>])/(?:wor[k]|roo[t]|hom[e]|User[s]|op[t]|mn[t]|scratc[h])/"
REGISTRY_HOST = (
    r"pyp[i]\.org|pythonhoste[d]\.org|download\.pytorc[h]\.org|pypi\.nvidi[a]\.com|npmj[s]\.org|anacond[a]\.(?:com|org)"
    r"|de[b]\.debian\.org|proxy\.golan[g]\.org|crate[s]\.io|docke[r]\.io|ghc[r]\.io|qua[y]\.io"
)
FORBIDDEN = {
    "a path of one machine": re.compile(MACHINE_PATH),
    "a registry host": re.compile(REGISTRY_HOST),
}


def machine_violations(root: Path) -> list[Violation]:
    """Every line of a text file under ``root`` that holds on one machine only."""
    violations = []
    for path in project_files(root):
        try:
            lines = (root / path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or a video
        for number, line in enumerate(lines, start=1):
            for kind, pattern in FORBIDDEN.items():
                found = pattern.search(line)
                if found:
                    violations.append(Violation(path, number, f"names {kind}: {found[0]}"))
    return violations


def test_nothing_names_a_machine() -> None:
    violations = machine_violations(ROOT)
    assert not violations, report(violations)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cd /" + "work/main && make", "a path of one machine"),
        ('root = "/' + 'home/ada/models"', "a path of one machine"),
        ("see file:///" + "Users/ada/x", "a path of one machine"),
        ("https://py" + "pi.org/simple", "a registry host"),
    ],
)
@pytest.mark.parametrize("path", ["docs/a.md", ".ci/run", "Makefile", "passes/p.py"])
def test_planted_machine_is_found(tmp_path: Path, path: str, text: str, kind: str) -> None:
    plant(tmp_path, path, f"\n{text}\n")
    (violation,) = machine_violations(tmp_path)
    assert str(violation).startswith(f"{path}:2: names {kind}")


@pytest.mark.parametrize(
    "text",
    ["https://example.org/work/paper", "tests/home/x", "see ../shared", "/tmp/video.mp4", "~/work/x", "a/b"],
)
def test_ordinary_text_passes(tmp_path: Path, text: str) -> None:
    plant(tmp_path, "docs/a.md", text)
    assert machine_violations(tmp_path) == []


def test_binary_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\xff\xfe/" + b"work/")
    assert machine_violations(tmp_path) == []
