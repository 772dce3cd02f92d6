"""What a saved video says of itself: the request that made it, in the file's own comment field, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
from PIL import Image

import fastvideo_ir as ir

PNG_KEY = "fastvideo"
"""Keyword of the text chunk in png files."""

Metadata = Mapping[str, Any]


def as_text(metadata: Metadata) -> str:
    """One line of JSON, as it stands in the file."""
    return json.dumps(dict(metadata), ensure_ascii=False)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a video that was saved here says of itself: prompt, seed, all parameters, and versions.

    Args:
        path: an mp4, gif or png file, or the folder of a video's png frames.

    Raises:
        InvalidArgumentError: there is no such file, or it says nothing.
    """
    place = Path(path).expanduser()
    try:
        file = min(place.glob("*.png")) if place.is_dir() else place
        text = _read_mp4(file) if file.suffix.lower() == ".mp4" else _read_image(file)
        found = json.loads(text)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise ir.errors.InvalidArgumentError(
            f"'{place}' holds no parameters of a generation: {error}", hint="give a file that generate_video wrote"
        ) from error
    if not isinstance(found, dict):
        raise ir.errors.InvalidArgumentError(f"'{place}' holds no parameters of a generation, but {text[:80]!r}")
    return found


def _read_mp4(file: Path) -> str:
    with av.open(str(file)) as container:
        return str(container.metadata.get("comment", ""))


def _read_image(file: Path) -> str:
    with Image.open(file) as image:
        found = image.info.get(PNG_KEY, image.info.get("comment", ""))
    return found.decode() if isinstance(found, bytes) else str(found)


def package_versions() -> dict[str, str]:
    """Versions of what makes a video what it is."""
    found = {}
    for package in ("fastvideo-ir", "torch", "diffusers", "transformers"):
        with suppress(PackageNotFoundError):  # run from a source tree, ours is not installed
            found[package] = version(package)
    return found
