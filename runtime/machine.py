"""What this machine has: versions, GPUs and the links between them, memory, disk, kernels, encoders."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

import fastvideo_ir as ir

from ..backends import attention

PACKAGES = ("torch", "triton", "diffusers", "transformers", "av")
ENCODERS = ("libx264", "h264_nvenc", "libopenh264", "gif", "png")
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device; memory in bytes."""

    name: str
    capability: str
    memory: int
    free: int


@dataclass(frozen=True)
class Kernel:
    """One attention backend.

    Attributes:
        name: as it is registered.
        available: whether it runs a plain attention in half precision here (on a machine without GPU, on the CPU).
        reason: why not; empty where it does.
        install: the line that installs what is missing; empty where nothing is known to help.
        automatic: whether ``auto`` may take it; otherwise it runs when named.
    """

    name: str
    available: bool
    reason: str
    install: str
    automatic: bool


@dataclass(frozen=True)
class Machine:
    """Everything that ``fastvideo doctor`` tells; memory and disk in bytes, None where it cannot be known."""

    python: str
    system: str
    packages: dict[str, str | None]
    cuda: str | None
    driver: str | None
    cores: int
    memory: int | None
    shared_memory_free: int | None
    disk_free: int
    gpus: tuple[Gpu, ...]
    links: tuple[str, ...]
    peer_access: bool | None
    kernels: tuple[Kernel, ...]
    encoders: dict[str, bool]


def examine() -> Machine:
    """Look at this machine. Nothing is computed on a GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages={name: _version(name) for name in PACKAGES},
        cuda=torch.version.cuda,
        driver=_nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader"),
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(),
        shared_memory_free=shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None,
        disk_free=shutil.disk_usage(tempfile.gettempdir()).free,
        gpus=tuple(_gpu(index) for index in range(count)),
        links=tuple(_links(count)),
        peer_access=_peer_access(count),
        kernels=tuple(_kernel(backend, "cuda" if count else "cpu") for backend in attention.backends().values()),
        encoders=_encoders(),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    free, _ = torch.cuda.mem_get_info(index)
    return Gpu(properties.name, f"{properties.major}.{properties.minor}", properties.total_memory, free)


def _links(count: int) -> Iterator[str]:
    """How each pair of neighbouring GPUs is connected, by ``nvidia-smi``: ``NV18``, or PCIe in some form."""
    table = _nvidia_smi("topo", "-m", lines=None) if count > 1 else None
    for line in (table or "").splitlines():
        cells = line.split()
        if len(cells) > count and cells[0].startswith("GPU") and cells[0][3:].isdigit():
            index = int(cells[0][3:])
            if index + 1 < count:
                yield f"GPU {index} – GPU {index + 1}: {_LINKS.get(cells[index + 2], cells[index + 2])}"


_LINKS = {
    "PIX": "PCIe, one switch",
    "PXB": "PCIe, several switches",
    "PHB": "PCIe, through the CPU",
    "NODE": "PCIe, through the CPU's interconnect",
    "SYS": "PCIe, between sockets",
}


def _peer_access(count: int) -> bool | None:
    if count < 2:
        return None
    return all(torch.cuda.can_device_access_peer(a, b) for a in range(count) for b in range(count) if a != b)


def _nvidia_smi(*words: str, lines: int | None = 1) -> str | None:
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    text = done.stdout.strip()
    return text.splitlines()[0] if lines and text else text or None


def _kernel(backend: attention.AttentionBackend, device: str) -> Kernel:
    kind = ir.TensorType(torch.bfloat16, (1, 16, 4096, 128))
    answer = backend.supports(attention.AttentionSite(kind, kind, kind, None, None, False, device))
    if isinstance(answer, attention.No):
        return Kernel(backend.name, False, answer.reason, answer.install, backend.exact)
    return Kernel(backend.name, True, "", "", backend.exact and answer.preferred)


def _encoders() -> dict[str, bool]:
    import av

    return {name: name in av.codecs_available for name in ENCODERS}
