"""CPU tensors in several processes without a second copy: the sender describes their memory, the receiver maps it.

- A tensor that lies in a mapped file (safetensors maps them) is mapped from the same file again.
- A small one is copied, together with its like, into one anonymous file.
- The storage of any other moves into an anonymous shared-memory file, in place: all tensors that share the storage,
  the caller's own ones among them, see the new memory. It stays there until the last process drops it.

Receivers map privately: what they would write is not seen by anybody else.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir

_SMALL_BYTES = 64 * 1024
"""Storages up to this size are copied; they are many (biases, norms), and each shared one costs a file descriptor."""
_ALIGNMENT = 64
_SHM = "/dev/shm"
_SPARE_DESCRIPTORS = 128


@dataclass(frozen=True)
class SharedTensors:
    """Tensors that another process can map.

    Attributes:
        manifest: JSON-able; which file, and where in it each tensor lies.
        fds: the anonymous files in the manifest's order; still owned by the storages, except ``arena``.
        arena: the file of the small tensors, to be closed when all receivers have it; None where there is none.
    """

    manifest: dict[str, Any]
    fds: list[int]
    arena: int | None

    def close(self) -> None:
        if self.arena is not None:
            os.close(self.arena)


def share_tensors(tensors: Mapping[str, Tensor]) -> SharedTensors:
    """Make strided CPU tensors reachable for other processes.

    Raises:
        FastVideoError: there is too little shared memory, or too few file descriptors are allowed.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    item_sizes: dict[int, int] = {}
    for tensor in tensors.values():
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        item_sizes[storage._cdata] = max(item_sizes.get(storage._cdata, 1), tensor.element_size())
    copied = {key: storage for key, storage in storages.items() if storage.nbytes() <= _SMALL_BYTES}
    mapped_files = _MappedFiles()
    places: dict[int, tuple[str, int]] = {}  # storage -> path or "fd:N", byte offset
    for key, storage in storages.items():
        if key not in copied and (place := mapped_files.find(storage, item_sizes[key])) is not None:
            places[key] = place
    moved = {key: storage for key, storage in storages.items() if key not in copied and key not in places}
    _check_room(moved)
    fds: list[int] = []
    for key, storage in moved.items():
        fd, _ = storage._share_fd_cpu_()
        if fd < 0:  # a written-to private mapping that torch made itself cannot move
            copied[key] = storage
            continue
        places[key] = (f"fd:{len(fds)}", 0)
        fds.append(fd)
    arena = None
    if copied:
        arena, offsets = _make_arena(copied)
        places |= {key: (f"fd:{len(fds)}", offset) for key, offset in offsets.items()}
        fds.append(arena)
    manifest = {name: _describe(tensor, places[tensor.untyped_storage()._cdata]) for name, tensor in tensors.items()}
    return SharedTensors(manifest, fds, arena)


def map_tensors(manifest: Mapping[str, Any], fds: list[int]) -> dict[str, Tensor]:
    """The tensors of another process's :func:`share_tensors`. Takes over, and closes, the file descriptors."""
    files: dict[str, torch.UntypedStorage] = {}
    result = {}
    try:
        for name, entry in manifest.items():
            file = entry["file"]
            if file not in files:
                path = f"/proc/self/fd/{fds[int(file[3:])]}" if file.startswith("fd:") else file
                files[file] = _map(path, False, os.stat(path).st_size)
            tensor = torch.empty(0, dtype=ir.types.DTYPES_BY_NAME[entry["dtype"]])
            offset = entry["offset"] // tensor.element_size()
            result[name] = tensor.set_(files[file], offset, entry["shape"], entry["stride"])
    finally:
        for fd in fds:
            os.close(fd)
    return result


def _describe(tensor: Tensor, place: tuple[str, int]) -> dict[str, Any]:
    file, offset = place
    return {
        "file": file,
        "offset": offset + tensor.storage_offset() * tensor.element_size(),
        "dtype": ir.types.DTYPE_NAMES[tensor.dtype],
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
    }


def _make_arena(storages: Mapping[int, torch.UntypedStorage]) -> tuple[int, dict[int, int]]:
    """Copy storages into one anonymous file; the file and where each storage begins in it."""
    offsets: dict[int, int] = {}
    size = 0
    for key, storage in storages.items():
        offsets[key] = size
        size += -(-storage.nbytes() // _ALIGNMENT) * _ALIGNMENT
    fd = os.memfd_create("fastvideo-weights")
    os.ftruncate(fd, max(size, 1))
    arena = _bytes_of(_map(f"/proc/self/fd/{fd}", True, max(size, 1)))
    for key, storage in storages.items():
        arena[offsets[key] : offsets[key] + storage.nbytes()].copy_(_bytes_of(storage))
    return fd, offsets


def _map(path: str, shared: bool, nbytes: int) -> torch.UntypedStorage:
    storage = torch.UntypedStorage.from_file(path, shared, nbytes)
    assert isinstance(storage, torch.UntypedStorage)
    return storage


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _check_room(storages: Mapping[int, torch.UntypedStorage]) -> None:
    """Refuse before anything has moved: running out of shared memory later would be a SIGBUS."""
    moving = [storage for storage in storages.values() if not storage.is_shared()]
    needed = sum(storage.nbytes() for storage in moving)
    status = os.statvfs(_SHM)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise ir.errors.FastVideoError(
            f"sharing the weights with the other ranks takes {needed / 2**30:.2f} GiB of shared memory, "
            f"but {_SHM} has {free / 2**30:.2f} GiB left",
            hint="enlarge it (docker run --shm-size=…), or load the weights memory-mapped from safetensors files",
        )
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    open_now = len(os.listdir("/proc/self/fd"))
    if allowed != resource.RLIM_INFINITY and open_now + len(moving) + _SPARE_DESCRIPTORS > allowed:
        raise ir.errors.FastVideoError(
            f"sharing the weights takes {len(moving)} file descriptors; {open_now} of the {allowed} allowed are open",
            hint=f"raise the limit with `ulimit -n {open_now + len(moving) + 4096}`",
        )


@dataclass(frozen=True)
class _Mapping:
    """A part of the address space that shows a file as it is on disk."""

    start: int
    stop: int
    offset: int
    path: str


class _MappedFiles:
    """The regular files that this process has mapped, from ``/proc/self/smaps``.

    A private mapping counts only while no page of it has been written: a written page is a copy that the file lacks.
    """

    def __init__(self) -> None:
        self._mappings = sorted(_read_mappings(), key=lambda mapping: mapping.start)
        self._starts = [mapping.start for mapping in self._mappings]

    def find(self, storage: torch.UntypedStorage, item_size: int) -> tuple[str, int] | None:
        """The file that holds a storage, and the byte at which it begins there, a multiple of ``item_size``."""
        address = storage.data_ptr()
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address + storage.nbytes() > self._mappings[index].stop:
            return None
        mapping = self._mappings[index]
        offset = mapping.offset + address - mapping.start
        return (mapping.path, offset) if offset % item_size == 0 else None


def _read_mappings() -> list[_Mapping]:
    result: list[_Mapping] = []
    for block in _smaps_blocks():
        span, _, offset, device, inode, path = block[0].split(maxsplit=5)
        values = {line.split(":")[0]: line.split()[1] for line in block[1:] if line.rstrip().endswith(" kB")}
        private_copies = values.get("Anonymous") != "0" or values.get("Swap") != "0"
        if private_copies or not _is_file(path, device, int(inode)):
            continue
        start, stop = (int(address, 16) for address in span.split("-"))
        result.append(_Mapping(start, stop, int(offset, 16), path))
    return result


def _smaps_blocks() -> list[list[str]]:
    """The lines of each mapping that has a path."""
    blocks: list[list[str]] = []
    keep = False
    for line in Path("/proc/self/smaps").read_text(errors="surrogateescape").splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):
            keep = len(line.split(maxsplit=5)) == 6
            if keep:
                blocks.append([line])
        elif keep:
            blocks[-1].append(line)
    return blocks


def _is_file(path: str, device: str, inode: int) -> bool:
    """Whether a path of smaps still names the regular file that was mapped."""
    if not path.startswith("/") or path.endswith(" (deleted)"):
        return False
    try:
        status = os.stat(path)
    except OSError:
        return False
    major, minor = (int(part, 16) for part in device.split(":"))
    return (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino) == (major, minor, inode)
