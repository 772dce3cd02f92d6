"""Which device each rank runs on."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

import torch

import fastvideo_ir as ir


def resolve_device(device: str | torch.device | None, num_gpus: int) -> torch.device:
    """The device of rank 0; rank r runs on :func:`rank_device` of it.

    ``None`` is CUDA where there is a GPU, otherwise the CPU, which is said once on stderr. On the CPU ``num_gpus``
    counts processes.

    Raises:
        InvalidArgumentError: ``num_gpus`` is below one or more than this machine has, or the device cannot be used.
    """
    if isinstance(num_gpus, bool) or not isinstance(num_gpus, int) or num_gpus < 1:
        raise ir.errors.InvalidArgumentError(f"num_gpus must be an integer of at least 1, got {num_gpus!r}")
    if device is None:
        if torch.cuda.is_available():
            device = torch.device("cuda", 0)
        else:
            _say_cpu_is_used()
            device = torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ir.errors.InvalidArgumentError(f"{device!r} is not a device; expected e.g. 'cuda' or 'cpu'") from error
    if resolved.type == "cpu":
        return torch.device("cpu")
    if resolved.type != "cuda":
        raise ir.errors.InvalidArgumentError(f"device must be a CUDA device or the CPU, got {resolved}")
    if not torch.cuda.is_available():
        raise ir.errors.InvalidArgumentError(f"device {resolved} was asked for, but torch sees no CUDA device")
    first = resolved.index or 0
    available = torch.cuda.device_count()
    if first + num_gpus > available:
        where = f" from cuda:{first} on" if first else ""
        raise ir.errors.InvalidArgumentError(
            f"num_gpus={num_gpus}{where} was asked for, but this machine has {available} CUDA device"
            f"{'' if available == 1 else 's'}",
            hint="pass a smaller num_gpus, or device='cpu' to run the ranks as processes on the CPU",
        )
    return torch.device("cuda", first)


def check_cpu_processes(num_processes: int) -> None:
    """Refuse to start so many processes on the CPU that they would bring the machine down.

    Raises:
        InvalidArgumentError: they are more than a few for each core that this process may use.
    """
    cores = len(os.sched_getaffinity(0))
    most = max(16, 4 * cores)
    if num_processes > most:
        raise ir.errors.InvalidArgumentError(
            f"num_gpus={num_processes} was asked for, but on the CPU each rank is a process, and it has {cores} cores",
            hint=f"use num_gpus={most} or less, or executor='simulated', which runs all ranks in this process",
        )


def rank_device(device: torch.device, rank: int) -> torch.device:
    """The device of ``rank``, where rank 0 has ``device``: the CUDA devices are taken in order."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", (device.index or 0) + rank)


_QUARTER = 2**28


def free_memory(device: torch.device, num_gpus: int) -> int:
    """Bytes that are free on the fullest of the devices from ``device`` on; 0 on the CPU, whose memory ranks share.

    In whole quarters of a GiB, so that plans do not depend on what varies from process to process.
    """
    if device.type != "cuda":
        return 0
    free = min(int(torch.cuda.mem_get_info(rank_device(device, rank))[0]) for rank in range(num_gpus))
    return max(1, free // _QUARTER * _QUARTER)


def bytes_on(module: torch.nn.Module, device: torch.device) -> int:
    """Bytes of the module's weights that lie on a CUDA device; 0 for the CPU."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values() if t.is_cuda and t.device == device)


@lru_cache(maxsize=1)
def _say_cpu_is_used() -> None:
    print("fastvideo: no CUDA device found, running on the CPU", file=sys.stderr)
