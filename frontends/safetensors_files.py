"""The weight files of one component: found, named when missing or damaged, and read as memory maps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastvideo_ir as ir

if TYPE_CHECKING:
    import torch

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def find(folder: Path, stem: str) -> tuple[Path, ...]:
    """The safetensors files of a component.

    Args:
        folder: the component's folder.
        stem: ``diffusion_pytorch_model`` for Diffusers, ``model`` for Transformers.

    Raises:
        PipelineLoadError: names the file that is missing; pickled weights are never read.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ir.errors.PipelineLoadError(
                f"'{index}' is damaged: it has no weight_map", hint="download the file again"
            )
        files = tuple(folder / name for name in sorted({str(name) for name in names.values()}))
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ir.errors.PipelineLoadError(
                f"'{folder}' lacks the weights {', '.join(missing)}, which {index.name} lists",
                hint="download the missing files",
            )
        return files
    if single.is_file():
        return (single,)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ir.errors.PipelineLoadError(
            f"'{folder}' has its weights only as pickles ({', '.join(pickles[:3])}), which are never loaded",
            hint="convert them to safetensors: model.save_pretrained(folder, safe_serialization=True)",
        )
    raise ir.errors.PipelineLoadError(
        f"'{single}' is missing", hint="a component in Diffusers layout keeps its weights there"
    )


def check(files: tuple[Path, ...]) -> None:
    """Check the header of each file and that the file is as long as it says; reads no weights.

    Raises:
        PipelineLoadError: names the file that is truncated or damaged.
    """
    for file in files:
        with open_file(file):
            pass


def read(files: tuple[Path, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors by name, as memory maps of the files: pages are read when they are used."""
    for file in files:
        with open_file(file) as handle:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                yield name, handle.get_tensor(name)


def count_elements(files: tuple[Path, ...]) -> int:
    """How many numbers all tensors have, by the headers of the files."""
    total = 0
    for file in files:
        with open_file(file) as handle:
            total += sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118
    return total


@contextmanager
def open_file(file: Path) -> Iterator[Any]:
    """``safe_open`` on CPU, with errors that name the file."""
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ir.errors.PipelineLoadError(
            f"'{file}' is truncated or damaged: {error}", hint="download the file again"
        ) from error
    with handle:
        yield handle


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        PipelineLoadError: names the file that is missing or damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ir.errors.PipelineLoadError(
            f"'{file}' is missing", hint="download the pipeline again, or check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise ir.errors.PipelineLoadError(
            f"'{file}' cannot be read as JSON: {error}", hint="download the file again"
        ) from error
    if not isinstance(values, dict):
        raise ir.errors.PipelineLoadError(f"'{file}' holds no JSON object", hint="download the file again")
    return values
