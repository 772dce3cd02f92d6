"""Devices that plans can be made for: what their data sheets promise, and how much of it an H200 was seen to keep."""

from __future__ import annotations

import torch

from fastvideo_ir.errors import UnknownNameError

from .cost import Hardware

AUTO = "auto"
_GIB = 2**30

# NVIDIA's data sheets: dense bf16 FLOP/s (no sparsity), bytes/s of memory, bytes/s to other devices in one direction
# (NVLink, or PCIe x16 where there is none), GiB of memory. Longer names first, since GPUs are found by them.
_PEAKS: dict[str, tuple[float, float, float, int]] = {
    "B200": (2.25e15, 8.0e12, 9.0e11, 179),
    "H200": (9.89e14, 4.8e12, 4.5e11, 140),
    "H100 PCIe": (7.56e14, 2.0e12, 6.4e10, 80),
    "H100 NVL": (8.35e14, 3.9e12, 3.0e11, 94),
    "H100": (9.89e14, 3.35e12, 4.5e11, 80),
    "H20": (1.48e14, 4.0e12, 4.5e11, 96),
    "A100 PCIe": (3.12e14, 1.94e12, 3.2e10, 80),
    "A100": (3.12e14, 2.04e12, 3.0e11, 80),
    "L40S": (3.62e14, 8.64e11, 3.2e10, 45),
    "RTX 5090": (2.1e14, 1.79e12, 6.4e10, 32),
    "RTX 4090": (1.65e14, 1.01e12, 3.2e10, 24),
}
_MEASURED = Hardware()
_KEPT = tuple(
    rate / peak
    for rate, peak in zip(
        (_MEASURED.matmul_flops, _MEASURED.memory_bandwidth, _MEASURED.link_bandwidth), _PEAKS["H200"], strict=False
    )
)


def known_hardware() -> dict[str, Hardware]:
    """Devices by the name that users write: lower case, no spaces."""
    return {_key(name): _hardware(name) for name in _PEAKS}


def named_hardware(name: str) -> Hardware:
    """The device called ``name``; ``auto`` is the GPU of this machine where it is known, otherwise an H200.

    Raises:
        UnknownNameError: there is none; tells the nearest.
    """
    known = known_hardware()
    if name == AUTO:
        return _here() or _MEASURED
    if _key(name) not in known:
        raise UnknownNameError("hardware", name, [AUTO, *known])
    return known[_key(name)]


def _here() -> Hardware | None:
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().replace("-", " ").casefold().split()
    return next((_hardware(name) for name in _PEAKS if set(name.casefold().split()) <= set(words)), None)


def _key(name: str) -> str:
    return name.casefold().replace(" ", "-")


def _hardware(name: str) -> Hardware:
    flops, memory, link, gib = _PEAKS[name]
    return Hardware(
        name,
        matmul_flops=flops * _KEPT[0],
        memory_bandwidth=memory * _KEPT[1],
        link_bandwidth=link * _KEPT[2],
        memory=gib * _GIB,
    )
