"""``make demo`` in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from examples.train_shapes.detect import Found, detect

from .compiled import run_python
from .conftest import EXAMPLES
from .test_video import decode


def test_demo_draws_what_the_prompt_says_on_two_ranks(tmp_path: Path) -> None:
    done = run_python([str(EXAMPLES / "demo.py"), "--num-gpus", "2", "--steps", "6"], tmp_path)
    assert done.returncode == 0, done.stderr
    path, figures, ranks = done.stdout.splitlines()
    assert path.startswith("outputs/a-medium-red-star-") and figures == "17 frames, 128x128, 8 fps, h264"
    assert ranks.startswith("2 ranks, seed 1024, seconds per step: ")
    frames, _, _ = decode(tmp_path / path)
    seen = detect(frames)  # chroma is stored at half the size, and edges may look like another colour
    assert {Found("blue", "ring", "up"), Found("red", "star", "spin")} <= set(seen)
