"""For tests of the whole generator: it needs the compiler's face, at times in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(words: list[str], cwd: Path, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python elsewhere than in the source tree, as a user does; ``script`` goes to its stdin."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    return subprocess.run(
        [sys.executable, *words],
        input=script,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
