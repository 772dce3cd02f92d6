"""Where a video goes: checked before the work starts, never written over, and not lost when saving fails."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

import fastvideo_ir as ir

from .video import write_mp4

_LOG = logging.getLogger(__name__)
_OTHER_KINDS = frozenset({".avi", ".gif", ".mkv", ".mov", ".webm"})
_MAX_NAME_BYTES = 100  # file systems allow 255; the rest is for a number and the ending


@dataclass(frozen=True)
class OutputPlace:
    """A folder that can be written, and the name to use there (without ending), or None for the prompt's."""

    folder: Path
    stem: str | None


@dataclass(frozen=True)
class SavedVideo:
    """Where a video ended up; ``path`` is None if it could not be saved, and then ``error`` says why."""

    path: Path | None
    error: str | None


def check_output(output_path: str | os.PathLike[str]) -> OutputPlace:
    """Make the folder if need be and see that files can be made there.

    Args:
        output_path: a folder, or a file that ends in ``.mp4``.

    Raises:
        InvalidArgumentError: it cannot be written, or asks for another kind of file.
    """
    path = Path(output_path).expanduser()
    suffix = path.suffix.lower()
    if suffix in _OTHER_KINDS:
        raise ir.errors.InvalidArgumentError(
            f"videos are written as mp4, not as {suffix}", hint=f"use '{path.with_suffix('.mp4')}'"
        )
    is_file_name = suffix == ".mp4" and not path.is_dir()
    folder = path.parent if is_file_name else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ir.errors.InvalidArgumentError(
            f"the output folder '{folder}' cannot be written: {error.strerror or error}",
            hint="choose another folder, or free space in this one",
        ) from error
    return OutputPlace(folder, path.stem if is_file_name else None)


def save_video(
    frames: np.ndarray,
    fps: float,
    prompt: str,
    place: OutputPlace,
    write: Callable[[Path, np.ndarray, float], None] = write_mp4,
) -> SavedVideo:
    """Save under a new name. If that fails, try the temporary folder, and say so in the log.

    Args:
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        fps: frames per second.
        prompt: names the file, unless ``place`` does.
        place: from :func:`check_output`.
        write: writes the frames to a file.
    """
    stem = place.stem or safe_name(prompt)
    try:
        return SavedVideo(_save(frames, fps, place.folder, stem, write), None)
    except (OSError, av.FFmpegError) as error:
        failure = f"the video could not be saved in '{place.folder}': {error}"
    try:
        rescued = _save(frames, fps, Path(tempfile.gettempdir()), stem, write)
    except (OSError, av.FFmpegError) as error:
        failure += f"; nor in the temporary folder: {error}"
        _LOG.error("%s; its frames are in the result", failure)
        return SavedVideo(None, failure)
    _LOG.error("%s; it is in '%s' instead", failure, rescued)
    return SavedVideo(rescued, failure)


def safe_name(prompt: str) -> str:
    """A file name (without ending) made of the letters and digits of a prompt."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    name = re.sub(r"\W+", "-", text).encode()[:_MAX_NAME_BYTES].decode(errors="ignore").strip("-_")
    return name or "video"


def _save(
    frames: np.ndarray, fps: float, folder: Path, stem: str, write: Callable[[Path, np.ndarray, float], None]
) -> Path:
    """Write under a name that was free, so that nothing else ever sees half a video or loses one."""
    target = _claim(folder, stem)
    part = target.with_name(f".{target.name}.part")
    try:
        write(part, frames, fps)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise
    return target


def _claim(folder: Path, stem: str) -> Path:
    number = 1
    while True:
        target = folder / (f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4")
        try:
            target.touch(exist_ok=False)
            return target
        except FileExistsError:
            number += 1
