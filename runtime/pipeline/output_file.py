"""Where a video goes: checked before the work starts, never written over, and not lost when saving fails."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

import fastvideo_ir as ir

from .image_formats import write_gif, write_png, write_png_folder
from .metadata import Metadata
from .video import write_mp4

_LOG = logging.getLogger(__name__)
_OTHER_KINDS = frozenset({".avi", ".jpeg", ".jpg", ".mkv", ".mov", ".webm", ".webp"})
_MAX_NAME_BYTES = 100  # file systems allow 255; the rest is for a number and the ending
_MAX_PART_BYTES = 240

Write = Callable[[Path, np.ndarray, float, Metadata], None]
"""Writes frames ``(frames, height, width, 3)`` at a rate, with what the file shall say of itself."""


@dataclass(frozen=True)
class OutputFormat:
    """A kind of output.

    Attributes:
        name: as ``output_format`` names it.
        suffix: of the file; empty for a folder.
        write: writes the frames.
    """

    name: str
    suffix: str
    write: Write


FORMATS = {
    "mp4": OutputFormat("mp4", ".mp4", write_mp4),
    "gif": OutputFormat("gif", ".gif", write_gif),
    "png": OutputFormat("png", "", write_png_folder),
}
_ONE_PNG = OutputFormat("png", ".png", write_png)


@dataclass(frozen=True)
class OutputPlace:
    """A folder that can be written, the name to use there (without ending) or None for the prompt's, and the format."""

    folder: Path
    stem: str | None
    format: OutputFormat


@dataclass(frozen=True)
class SavedVideo:
    """Where a video ended up; ``path`` is None if it could not be saved, and then ``error`` says why."""

    path: Path | None
    error: str | None


def check_output(
    output_path: str | os.PathLike[str], output_format: str | None = None, num_frames: int | None = None
) -> OutputPlace:
    """Make the folder if need be and see that files can be made there.

    Args:
        output_path: a folder, or a file that ends in ``.mp4``, ``.gif`` or, for one frame, ``.png``.
        output_format: ``"mp4"``, ``"gif"``, or ``"png"`` for a folder of frames (or a file, if there is one frame).
            None is what the file's ending says, and mp4 for a folder.
        num_frames: how many there will be; None is several.

    Raises:
        UnknownNameError: there is no such format.
        InvalidArgumentError: it is no path, cannot be written, or asks for another kind of file.
    """
    if output_format is not None and output_format not in FORMATS:
        raise ir.errors.UnknownNameError("output_format", str(output_format), FORMATS)
    if not isinstance(output_path, str | os.PathLike):
        raise ir.errors.InvalidArgumentError(
            f"output_path must be a folder or a file name, got {output_path!r}", hint="use save_video=False for no file"
        )
    path = Path(output_path).expanduser()
    longest = max(len(part.encode(errors="surrogateescape")) for part in path.parts or ("",))
    if longest > _MAX_PART_BYTES:
        raise ir.errors.InvalidArgumentError(
            f"output_path has a name of {longest} bytes, and {_MAX_PART_BYTES} are the most", hint="use a shorter one"
        )
    suffix = path.suffix.lower()
    if suffix in _OTHER_KINDS:
        raise ir.errors.InvalidArgumentError(
            f"videos are written as mp4, gif or png frames, not as {suffix}",
            hint=f"use '{path.with_suffix('.mp4')}'",
        )
    is_file_name = suffix.removeprefix(".") in FORMATS and not path.is_dir()
    name = output_format or (suffix[1:] if is_file_name else "mp4")
    if is_file_name and suffix != f".{name}":
        raise ir.errors.InvalidArgumentError(
            f"output_format={name!r} does not fit the file name '{path.name}'", hint="leave one of them out"
        )
    chosen = _ONE_PNG if name == "png" and num_frames == 1 else FORMATS[name]
    if is_file_name and not chosen.suffix:
        raise ir.errors.InvalidArgumentError(
            f"'{path.name}' is one picture, but there are several frames",
            hint=f"use output_path='{path.with_suffix('')}' with output_format='png' for a folder of pictures",
        )
    folder = path.parent if is_file_name else path
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ir.errors.InvalidArgumentError(
                f"the output folder '{folder}' cannot be made: '{part}' is a file", hint="choose another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ir.errors.InvalidArgumentError(
            f"the output folder '{folder}' cannot be written: {error.strerror or error}",
            hint="choose another folder, or free space in this one",
        ) from error
    return OutputPlace(folder, path.stem if is_file_name else None, chosen)


def save_video(
    frames: np.ndarray, fps: float, prompt: str, place: OutputPlace, metadata: Metadata | None = None
) -> SavedVideo:
    """Save under a new name. If that fails, try the temporary folder, and say so in the log.

    Args:
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        fps: frames per second.
        prompt: names the file, unless ``place`` does.
        place: from :func:`check_output`.
        metadata: what the file says of itself; None is the prompt alone.
    """
    stem = place.stem or safe_name(prompt)
    content = metadata if metadata is not None else {"prompt": prompt}
    try:
        return SavedVideo(_save(frames, fps, place.folder, stem, place.format, content), None)
    except (OSError, av.FFmpegError) as error:
        failure = f"the video could not be saved in '{place.folder}': {error}"
    try:
        rescued = _save(frames, fps, Path(tempfile.gettempdir()), stem, place.format, content)
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


def _save(frames: np.ndarray, fps: float, folder: Path, stem: str, output: OutputFormat, metadata: Metadata) -> Path:
    """Write under a name that was free, so that nothing else ever sees half a video or loses one."""
    target = _claim(folder, stem, output)
    part = target.with_name(f".{target.name}.part")
    try:
        output.write(part, frames, fps, metadata)
        part.replace(target)
    except BaseException:
        for leftover in (part, target):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        raise
    return target


def _claim(folder: Path, stem: str, output: OutputFormat) -> Path:
    number = 1
    while True:
        target = folder / (f"{stem}{output.suffix}" if number == 1 else f"{stem}-{number}{output.suffix}")
        try:
            if output.suffix:
                target.touch(exist_ok=False)
            else:
                target.mkdir()
            return target
        except FileExistsError:
            number += 1
