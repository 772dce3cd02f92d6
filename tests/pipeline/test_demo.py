"""``make demo`` in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from .compiled import run_python
from .conftest import EXAMPLES
from .test_video import decode


def test_demo_writes_a_video_on_two_ranks(tmp_path: Path) -> None:
    done = run_python([str(EXAMPLES / "demo.py"), "--num-gpus", "2", "--prompt", "a cat"], tmp_path)
    assert done.returncode == 0, done.stderr
    path, figures, ranks = done.stdout.splitlines()
    assert path == "outputs/a-cat.mp4" and figures == "17 frames, 192x128, 16 fps, h264"
    assert ranks.startswith("2 ranks, seed 1024, seconds per step: ")
    frames, _, _ = decode(tmp_path / path)
    assert frames.shape == (17, 128, 192, 3)
    assert frames.std() > 10 and frames[1:].astype(int).std(axis=0).mean() > 5  # neither grey nor still
