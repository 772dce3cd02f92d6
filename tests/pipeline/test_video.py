"""A file has the asked size, number of frames, rate and colours, a new name, says how it was made, and is not lost."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

import fastvideo_ir as ir
from fastvideo.runtime.pipeline.metadata import Metadata, read_metadata
from fastvideo.runtime.pipeline.output_file import (
    FORMATS,
    OutputFormat,
    OutputPlace,
    check_output,
    safe_name,
    save_video,
)
from fastvideo.runtime.pipeline.video import write_mp4

from .compiled import run_python

MP4 = FORMATS["mp4"]


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
    write_mp4(tmp_path / "v.mp4", moving_bars(num_frames, height, width), fps, {})
    frames, rate, length = decode(tmp_path / "v.mp4")
    assert frames.shape == (num_frames, height, width, 3)
    assert rate == pytest.approx(fps, abs=1e-3)
    assert length == pytest.approx(num_frames / fps, abs=2e-3)


def test_colours_survive(tmp_path: Path) -> None:
    frames = moving_bars(9, 64, 128)
    write_mp4(tmp_path / "v.mp4", frames, 16, {})
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
    assert check_output(tmp_path / "new/folder") == OutputPlace(tmp_path / "new/folder", None, MP4)
    assert check_output(tmp_path / "deep/name.MP4") == OutputPlace(tmp_path / "deep", "name", MP4)
    assert check_output(tmp_path / "v1.2") == OutputPlace(tmp_path / "v1.2", None, MP4)
    assert list(tmp_path.rglob("*.mp4")) == []
    assert check_output(tmp_path / "a.gif") == OutputPlace(tmp_path, "a", FORMATS["gif"])
    assert check_output(tmp_path, "png") == OutputPlace(tmp_path, None, FORMATS["png"])
    assert check_output(tmp_path / "a.png", num_frames=1).format.suffix == ".png"
    for path, name, message in (
        ("a.webm", None, r"written as mp4, gif or png frames, not as \.webm \(use '.*a\.mp4'\)"),
        ("a.gif", "mp4", r"output_format='mp4' does not fit the file name 'a\.gif'"),
        ("a.png", None, r"'a\.png' is one picture, but there are several frames \(use output_path='.*a' with"),
        ("a", "gfi", r"unknown output_format 'gfi'.*did you mean 'gif'"),
    ):
        with pytest.raises(ir.errors.InvalidArgumentError, match=message):
            check_output(tmp_path / path, name, 9)
    (tmp_path / "file").touch()
    for output, message in (
        (tmp_path / "file", "the output folder '.*file' cannot be made: '.*file' is a file"),
        (tmp_path / "file/deep/a.mp4", "'.*file/deep' cannot be made: '.*file' is a file"),
        (tmp_path / ("x" * 300 + ".mp4"), "a name of 304 bytes, and 240 are the most"),
        (None, "output_path must be a folder or a file name, got None"),
    ):
        with pytest.raises(ir.errors.InvalidArgumentError, match=message):
            check_output(output)
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"the output folder '/proc/nothing' cannot be written"):
        check_output("/proc/nothing")


def full_disk(file: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
    file.write_bytes(b"half a video")
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = OutputFormat("mp4", ".mp4", full_disk)


def test_full_disk_at_save_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    frames = moving_bars(5, 16, 16)

    def full_in_out(file: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
        (full_disk if file.parent.name == "out" else write_mp4)(file, frames, fps, metadata)

    half_full = OutputFormat("mp4", ".mp4", full_in_out)
    rescued = save_video(frames, 16, "a cat", OutputPlace(tmp_path / "out", None, half_full))
    assert rescued.path == tmp_path / "tmp/a-cat.mp4" and decode(rescued.path)[0].shape == frames.shape
    assert rescued.error is not None and "No space left on device" in rescued.error
    assert f"it is in '{rescued.path}' instead" in caplog.text

    lost = save_video(frames, 16, "a cat", OutputPlace(tmp_path / "out", None, FULL))
    assert lost.path is None and lost.error is not None and "nor in the temporary folder" in lost.error
    assert "its frames are in the result" in caplog.text
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk_amid_a_folder_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    def one_frame_fits(folder: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
        FORMATS["png"].write(folder, frames[:1], fps, metadata)
        raise OSError(errno.ENOSPC, "No space left on device")

    place = OutputPlace(tmp_path, None, OutputFormat("png", "", one_frame_fits))
    assert save_video(moving_bars(3, 16, 16), 16, "a cat", place).path is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_frames_and_parameters(tmp_path: Path, name: str) -> None:
    frames = moving_bars(7, 32, 48)
    told = {"prompt": "日落 “over” the sea\n", "seed": 7, "guidance_scale": 5.0, "long": "x" * 2000}
    for number in ("", "-2"):
        path = save_video(frames, 12, "a cat", check_output(tmp_path, name), told).path
        assert path == tmp_path / f"a-cat{number}{FORMATS[name].suffix}"
    assert path is not None and read_metadata(path) == told
    if name == "mp4":
        shown = decode(path)[0]
    elif name == "gif":
        with Image.open(path) as image:
            shown = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
            lengths = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
        assert sum(lengths) == pytest.approx(7 / 12 * 1000, abs=10) and set(lengths) == {80, 90}
    else:
        shown = np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())])
        assert np.array_equal(shown, frames)
    assert shown.shape == frames.shape
    assert np.median(np.abs(shown.astype(int) - frames.astype(int))) <= 3


def test_one_picture(tmp_path: Path) -> None:
    frames = moving_bars(1, 17, 23)
    path = save_video(frames, 16, "a cat", check_output(tmp_path, "png", 1), {"seed": 3}).path
    assert path == tmp_path / "a-cat.png" and read_metadata(path) == {"seed": 3}
    assert np.array_equal(np.asarray(Image.open(path)), frames[0])


def test_files_that_say_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    for name in ("plain.png", "broken.mp4", "nothing.gif", "empty"):
        with pytest.raises(ir.errors.InvalidArgumentError, match=f"{name}' holds no parameters of a generation"):
            read_metadata(tmp_path / name)


def test_encoder_that_meets_a_full_disk(tmp_path: Path) -> None:
    """The real encoder under a file size limit, in a process of its own."""
    script = f"""
import resource, numpy as np
from pathlib import Path
from fastvideo.runtime.pipeline.output_file import check_output, save_video
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
saved = save_video(frames, 16, "a cat", check_output({str(tmp_path)!r}))
assert saved.path is None and "File too large" in saved.error, saved
"""
    done = run_python(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
