"""Files that processes keep for later ones: JSON and tensors by name, in one folder of bounded size.

An entry is one safetensors file whose header holds the JSON and a digest of everything, so that a file that was cut off
or damaged is told from a good one. It is written beside its place and moved there in one step: any number of processes
may read, write and remove entries at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastvideo_ir as ir

SUFFIX = ".fvcache"
_UNFINISHED = ".writing"
_UNFINISHED_SECONDS = 3600.0
DEFAULT_LIMIT = 2 << 30


class DiskCacheWarning(UserWarning):
    """An entry on disk cannot be read or written; what it stands for is made anew."""


@dataclass(frozen=True)
class Entry:
    """What was kept under one name."""

    name: str
    data: dict[str, Any]
    tensors: dict[str, Tensor]


class DiskCache:
    """Entries in ``directory``; those that were not used for longest go when they need more than ``limit`` bytes.

    Nothing here raises on what it finds on disk: what cannot be read or written is warned of, and not kept.
    """

    def __init__(self, directory: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.directory = directory
        self._limit = limit

    def load(self, prefix: str) -> Iterator[Entry]:
        """Entries whose names start with ``prefix``, the one used last first. Damaged ones are removed."""
        for path in self._paths(f"{prefix}*{SUFFIX}"):
            try:
                yield _read(path)
            except FileNotFoundError:
                continue  # another process has removed it
            except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
                self.discard(path.name.removesuffix(SUFFIX), f"{type(error).__name__}: {error}")

    def store(self, name: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry; one of that name is replaced."""
        unfinished = self.directory / f"{name}.{os.getpid()}.{time.monotonic_ns()}{_UNFINISHED}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write(unfinished, data, tensors)
            os.replace(unfinished, self.directory / f"{name}{SUFFIX}")
        except (OSError, safetensors.SafetensorError) as error:
            _warn(f"{self.directory} cannot be written ({error}); nothing is kept for later processes")
            with suppress(OSError):
                unfinished.unlink()
        self._shrink()

    def used(self, name: str) -> None:
        """Note that an entry was of use."""
        with suppress(OSError):
            os.utime(self.directory / f"{name}{SUFFIX}")

    def discard(self, name: str, reason: str) -> None:
        """Remove an entry that is of no use, and warn."""
        _warn(f"{name}{SUFFIX} in {self.directory} cannot be used ({reason.splitlines()[0]}) and is made anew")
        with suppress(OSError):
            (self.directory / f"{name}{SUFFIX}").unlink()

    def _paths(self, pattern: str) -> list[Path]:
        """The one used last first."""
        return [path for _, _, path in sorted(self._files(pattern), key=lambda file: file[0], reverse=True)]

    def _files(self, pattern: str) -> Iterator[tuple[float, int, Path]]:
        for path in self.directory.glob(pattern):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _shrink(self) -> None:
        room = self._limit
        for _, nbytes, path in sorted(self._files(f"*{SUFFIX}"), key=lambda file: file[0], reverse=True):
            room -= nbytes
            if room < 0:
                with suppress(OSError):
                    path.unlink()
        for used, _, path in self._files(f"*{_UNFINISHED}"):
            if time.time() - used > _UNFINISHED_SECONDS:  # its process has ended
                with suppress(OSError):
                    path.unlink()


def _write(path: Path, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    kinds = {name: _kind(tensor) for name, tensor in tensors.items()}
    text = json.dumps({"data": data, "tensors": kinds})
    flat = {name: _bytes(tensor) for name, tensor in tensors.items()}
    save_file(flat, path, {"entry": text, "sha256": _digest(text, flat)})


def _read(path: Path) -> Entry:
    with safetensors.safe_open(path, "pt") as file:
        head = file.metadata() or {}
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    if _digest(head["entry"], flat) != head["sha256"]:
        raise ValueError("its contents are damaged")
    entry = json.loads(head["entry"])
    tensors = {name: _restored(flat[name], **kind) for name, kind in entry["tensors"].items()}
    return Entry(path.name.removesuffix(SUFFIX), entry["data"], tensors)


def _kind(tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": ir.types.DTYPE_NAMES[tensor.dtype],
        "shape": list(tensor.shape),
        "stride": list(_dense_stride(tensor)),
    }


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own order of dims, without gaps and repeats."""
    return tuple(torch.empty_like(tensor, device="meta").stride())


def _bytes(tensor: Tensor) -> Tensor:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    dense = torch.empty_strided(plain.shape, _dense_stride(plain), dtype=plain.dtype).copy_(plain)
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)


def _restored(flat: Tensor, dtype: str, shape: list[int], stride: list[int]) -> Tensor:
    return flat.view(ir.types.DTYPES_BY_NAME[dtype]).as_strided(shape, stride)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].numpy().data)
    return found.hexdigest()


def _warn(text: str) -> None:
    warnings.warn(text, DiskCacheWarning, stacklevel=4)
