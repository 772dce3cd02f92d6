"""Frames to a gif, to a png, and to a folder of pngs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .metadata import PNG_KEY, Metadata, as_text

_TICK = 10  # milliseconds; a gif counts in hundredths of a second


def write_gif(file: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
    """Write an endless gif. Every frame has a palette of its own, and the frames' ends are each rounded to 10 ms.

    Args:
        file: written over if it exists.
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        fps: frames per second; players slow down what is faster than 50.
        metadata: kept in the comment.

    Raises:
        OSError: the file cannot be written.
    """
    images = [Image.fromarray(frame).quantize(256) for frame in frames]
    ends = [round(1000 / fps * number / _TICK) * _TICK for number in range(len(images) + 1)]
    durations = [max(end - start, _TICK) for start, end in pairwise(ends)]
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        comment=as_text(metadata).encode(),
    )


def write_png(file: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
    """Write the one frame there is, lossless.

    Args:
        file: written over if it exists.
        frames: ``(1, height, width, 3)``, uint8, RGB.
        fps: means nothing for one picture.
        metadata: kept in a text chunk.

    Raises:
        OSError: the file cannot be written.
    """
    (frame,) = frames
    _save(file, frame, metadata)


def write_png_folder(folder: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
    """Write each frame as ``frame-00001.png`` and so on, lossless.

    Args:
        folder: made if need be.
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        fps: kept in the metadata alone.
        metadata: kept in a text chunk of each file.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(frames, 1):
        _save(folder / f"frame-{number:05d}.png", frame, metadata)


def _save(file: Path, frame: np.ndarray, metadata: Metadata) -> None:
    info = PngInfo()
    info.add_itxt(PNG_KEY, as_text(metadata))
    Image.fromarray(frame).save(file, format="PNG", pnginfo=info)
