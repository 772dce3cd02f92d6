"""The files that a lint check reads: what git tracks or would add, each once, not again through the links."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Outside a git checkout (an sdist, a planted tree) nothing tells what is generated, but for the name.
GENERATED = {".git", ".venv", "__pycache__", "build", "dist", "outputs"}
GENERATED_ENDS = (".egg-info", "_cache")


@dataclass(frozen=True)
class Violation:
    """One broken rule, printed as an editor can follow it."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def project_files(root: Path, *suffixes: str) -> list[Path]:
    """Paths relative to ``root``, sorted, of regular files with one of the suffixes (none given: all)."""
    paths = set(_known_to_git(root) if (root / ".git").exists() else _walk(root))
    regular = [path for path in paths if (root / path).is_file() and not (root / path).is_symlink()]
    return sorted(path for path in regular if not suffixes or path.suffix in suffixes)


def _known_to_git(root: Path) -> Iterator[Path]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, check=False)
    if listing.returncode != 0:  # git refuses a checkout of another owner
        yield from _walk(root)
        return
    yield from (Path(name) for name in listing.stdout.decode().split("\0") if name)


def _walk(root: Path, folder: Path = Path()) -> Iterator[Path]:
    for entry in (root / folder).iterdir():
        path = folder / entry.name
        if entry.is_symlink() or entry.name in GENERATED or entry.name.endswith(GENERATED_ENDS):
            continue
        if entry.is_dir():
            yield from _walk(root, path)
        else:
            yield path


def plant(root: Path, name: str, text: str) -> None:
    """Write a file that breaks a rule, to show that the check sees it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def report(violations: list[Violation]) -> str:
    return "\n" + "\n".join(str(violation) for violation in violations)
