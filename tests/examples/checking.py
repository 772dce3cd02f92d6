"""Running a compiled model against eager, and an example as a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fastvideo

from ..captures import captures_of
from ..models import ModelCase
from .conftest import EXAMPLES

IN_PROCESS: dict[str, dict[str, Any]] = {
    "one-rank": {},
    "simulated": {"executor": "simulated", "parallel": fastvideo.Parallel(sp=3)},
}
"""Arguments of ``compile`` for the ways to run that start no processes."""


def check_against_eager(case: ModelCase, **arguments: Any) -> str:
    """Compile the model, compare one call with eager, and return what ``explain`` says."""
    shared, inputs = captures_of(case), case.inputs(seed=0)
    with torch.no_grad():
        (expected,) = shared.model(**inputs)
    with shared.compiled(**arguments) as compiled:
        (found,) = compiled(**inputs)
        explained = compiled.explain()
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    return explained


def run_script(name: str, cwd: Path) -> str:
    """What an example prints when it is run as a user runs it, elsewhere than in the source tree."""
    root = str(EXAMPLES.parent)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
