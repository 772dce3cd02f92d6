"""How one worker process is started: its command line, its environment and its end of the control channel.

A worker is a fresh interpreter that runs ``python -P -m fastvideo.runtime.worker``. It never imports the caller's
``__main__``, so scripts without a guard, scripts on stdin and notebooks need no care, and ``-P`` keeps files of the
working directory (a ``random.py``, say) from standing in for modules of the standard library.
"""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

import fastvideo_ir as ir

from .channel import Channel, Check
from .devices import rank_device
from .reports import log_path

PACKAGE = __name__.partition(".")[0]

NCCL_SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1",
}
"""By default torch's NCCL watchdog ends the process when a peer is lost. Here the caller gets an error instead."""


def launch_worker(
    rank: int, num_ranks: int, device: torch.device, directory: Path, check: Check
) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start the worker of ``rank`` and return at once.

    Raises:
        OSError: the process cannot be started.
    """
    ours, theirs = socket.socketpair()
    arguments = {
        "channel": theirs.fileno(),
        "rank": rank,
        "num-ranks": num_ranks,
        "device": rank_device(device, rank),
        "directory": directory,
        "parent": os.getpid(),
    }
    command = [sys.executable, "-P", "-m", f"{PACKAGE}.runtime.worker"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    try:
        with log_path(directory, rank).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=worker_environment(),
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the caller, who ends its workers
            )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, Channel(ours, check)


def worker_environment() -> dict[str, str]:
    """The caller's environment, with which a worker finds the same ``fastvideo`` and ``fastvideo_ir``.

    Only their folders are put in front of the standard library. The rest of ``sys.path`` follows over the control
    channel and goes to its end.
    """
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    packages = [sys.modules[PACKAGE], ir]
    folders = dict.fromkeys(str(Path(package.__path__[0]).absolute().parent) for package in packages)
    paths = [folder for folder in folders if folder not in installed]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, **NCCL_SETTINGS, "PYTHONPATH": os.pathsep.join(paths)}


def share_of_cores(num_ranks: int) -> int:
    """Threads for one of ``num_ranks`` processes that share the cores this process may run on."""
    return max(1, len(os.sched_getaffinity(0)) // num_ranks)


_this_is_a_worker = False


def mark_as_worker() -> None:
    """Remember that this process is a rank of somebody's group."""
    global _this_is_a_worker
    _this_is_a_worker = True


def refuse_in_worker() -> None:
    """Refuse to start ranks from within a rank: an imported script that compiles would start processes without end.

    Raises:
        InvalidArgumentError: this process is a worker.
    """
    if _this_is_a_worker:
        raise ir.errors.InvalidArgumentError(
            "a worker process imported this script for what it registers, and cannot start ranks of its own",
            hint="put the calls under if __name__ == '__main__':",
        )
