"""The mp4 has the asked size, number of frames, rate and colours, a new name, and is not lost."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest

import fastvideo_ir as ir
from fastvideo.runtime.pipeline.output_file import OutputPlace, check_output, safe_name, save_video
from fastvideo.runtime.pipeline.video import write_mp4

from .compiled import run_python


def decode(file: Path) -> tuple[np.ndarray, float, float]:
    """Frames ``(frames, height, width, 3)``, frames per second, and length in seconds."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None and container.duration is not None
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate), container.duration / av.time_base


def moving_bars(num_frames: int, height: int, width: int) -> np.ndarray:
    colours = np.array([[220, 30, 30], [30, 200, 60], [40, 60, 210], [235, 235, 235]], dtype=np.uint8)
    columns = (np.arange(width)[None, :] + 4 * np.arange(num_frames)[:, None]) * 4 // width % 4
    return np.repeat(colours[columns][:, None], height, axis=1)


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "fps"),
    [(9, 48, 80, 16), (1, 16, 16, 24), (5, 33, 47, 23.976), (30, 96, 64, 29.97)],
)
def test_size_number_and_rate_are_exact(tmp_path: Path, num_frames: int, height: int, width: int, fps: float) -> None:
    write_mp4(tmp_path / "v.mp4", moving_bars(num_frames, height, width), fps)
    frames, rate, length = decode(tmp_path / "v.mp4")
    assert frames.shape == (num_frames, height, width, 3)
    assert rate == pytest.approx(fps, abs=1e-3)
    assert length == pytest.approx(num_frames / fps, abs=2e-3)


def test_colours_survive(tmp_path: Path) -> None:
    frames = moving_bars(9, 64, 128)
    write_mp4(tmp_path / "v.mp4", frames, 16)
    decoded, _, _ = decode(tmp_path / "v.mp4")
    error = np.abs(decoded.astype(int) - frames.astype(int))
    assert np.median(error) <= 3 and error.mean() < 6  # edges of colours blur in 4:2:0


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A person walking in a forest.", "a-person-walking-in-a-forest"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\nb\0c / d\\e: f*?", "a-b-c-d-e-f"),
        ("日落 over the sea", "日落-over-the-sea"),
        ("🎬", "video"),
        (".hidden -- -", "hidden"),
    ],
)
def test_safe_name(prompt: str, name: str) -> None:
    assert safe_name(prompt) == name


def test_long_prompt_makes_a_short_name(tmp_path: Path) -> None:
    for prompt in ("word " * 500, "走" * 500):
        name = safe_name(prompt)
        assert 50 < len(name.encode()) <= 100
        (tmp_path / f"{name}.mp4").touch()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    frames = moving_bars(1, 16, 16)
    place = check_output(tmp_path)
    saved = [save_video(frames, 16, "a cat", place).path for _ in range(3)]
    assert [path.name for path in saved if path] == ["a-cat.mp4", "a-cat-2.mp4", "a-cat-3.mp4"]
    named = check_output(tmp_path / "a-cat.mp4")
    assert save_video(frames, 16, "a dog", named).path == tmp_path / "a-cat-4.mp4"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a-cat{n}.mp4" for n in ("-2", "-3", "-4", "")]


def test_check_output(tmp_path: Path) -> None:
    assert check_output(tmp_path / "new/folder") == OutputPlace(tmp_path / "new/folder", None)
    assert check_output(tmp_path / "deep/name.MP4") == OutputPlace(tmp_path / "deep", "name")
    assert check_output(tmp_path / "v1.2") == OutputPlace(tmp_path / "v1.2", None)
    assert list(tmp_path.rglob("*.mp4")) == []
    with pytest.raises(
        ir.errors.InvalidArgumentError, match=r"videos are written as mp4, not as \.gif \(use '.*a\.mp4'\)"
    ):
        check_output(tmp_path / "a.gif")
    (tmp_path / "file").touch()
    with pytest.raises(
        ir.errors.InvalidArgumentError, match=r"the output folder '.*file' cannot be written: File exists"
    ):
        check_output(tmp_path / "file")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"the output folder '/proc/nothing' cannot be written"):
        check_output("/proc/nothing")


def full_disk(file: Path, frames: np.ndarray, fps: float) -> None:
    file.write_bytes(b"half a video")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_at_save_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    frames = moving_bars(5, 16, 16)

    def full_in_out(file: Path, frames: np.ndarray, fps: float) -> None:
        (full_disk if file.parent.name == "out" else write_mp4)(file, frames, fps)

    rescued = save_video(frames, 16, "a cat", OutputPlace(tmp_path / "out", None), write=full_in_out)
    assert rescued.path == tmp_path / "tmp/a-cat.mp4" and decode(rescued.path)[0].shape == frames.shape
    assert rescued.error is not None and "No space left on device" in rescued.error
    assert f"it is in '{rescued.path}' instead" in caplog.text

    lost = save_video(frames, 16, "a cat", OutputPlace(tmp_path / "out", None), write=full_disk)
    assert lost.path is None and lost.error is not None and "nor in the temporary folder" in lost.error
    assert "its frames are in the result" in caplog.text
    assert list((tmp_path / "out").iterdir()) == []


def test_encoder_that_meets_a_full_disk(tmp_path: Path) -> None:
    """The real encoder under a file size limit, in a process of its own."""
    script = f"""
import resource, numpy as np
from pathlib import Path
from fastvideo.runtime.pipeline.output_file import OutputPlace, save_video
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
saved = save_video(frames, 16, "a cat", OutputPlace(Path({str(tmp_path)!r}), None))
assert saved.path is None and "File too large" in saved.error, saved
"""
    done = run_python(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
