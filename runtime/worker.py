"""The process of one rank other than 0: ``python -P -m fastvideo.runtime.worker``, started by the caller.

It waits for commands on its control channel and answers each that ends well with ``{"done": …}``. An exception ends
the process, which leaves a report behind; so does the end of the caller, however it comes.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import fastvideo_ir as ir

from .channel import Channel, ChannelClosedError
from .launch import mark_as_worker, share_of_cores
from .memories import Scope
from .numerics import apply_numeric_settings
from .process_groups import PeerLostError, ProcessGroups
from .progress import Progress
from .rank import Rank
from .reports import write_report
from .shared_memory import map_tensors

_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve one rank until the caller says so, or ends."""
    parser = argparse.ArgumentParser(prog="fastvideo.runtime.worker", description=__doc__)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor of the control channel")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--num-ranks", type=int, required=True)
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="private directory of the worker group")
    parser.add_argument("--parent", type=int, required=True, help="process id of the caller")
    options = parser.parse_args(argv)
    channel = Channel(socket.socket(fileno=options.channel))
    _end_with_caller(options.parent, channel)
    mark_as_worker()
    faulthandler.register(signal.SIGUSR1)  # how the caller learns where a hung rank is
    try:
        _Worker(channel, options.directory, options.rank, options.num_ranks, options.device).serve()
    except ChannelClosedError:
        _exit(1)
    except BaseException as error:
        write_report(options.directory, options.rank, error, isinstance(error, PeerLostError))
        _exit(1)
    _exit(0)


class _Worker:
    def __init__(self, channel: Channel, directory: Path, rank: int, num_ranks: int, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(share_of_cores(num_ranks))
        self._channel = channel
        self._device = device
        progress = Progress(directory / "progress", rank)
        self._rank = Rank(ProcessGroups(directory, rank, num_ranks, device, progress), progress)

    def serve(self) -> None:
        while True:
            message, fds = self._channel.receive()
            op = message["op"]
            if op == "exit":
                return
            self._obey(op, message, fds)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._channel.send({"done": op})

    def _obey(self, op: str, message: dict[str, Any], fds: list[int]) -> None:
        match op:
            case "start":
                sys.path += [path for path in message["paths"] if path not in sys.path]
                for plugin in message["plugins"]:
                    _import_plugin(plugin)
            case "share":
                self._rank.weights.whole |= map_tensors(message["tensors"], fds)
            case "load":
                apply_numeric_settings(message["numerics"])
                self._rank.load(message["program"], ir.parse_program(message["text"]), message["generator"])
            case "prepare":
                self._rank.prepare(message["program"])
            case "run":
                self._rank.run(message["program"], Scope(**message["scope"]))
            case "drop":
                self._rank.drop(message["program"], rests=message["rests"])
            case "rest":
                self._rank.rest(message["program"])
            case "forget":
                self._rank.forget_weights()
            case _:
                raise AssertionError(f"unknown command {op!r}")


def _import_plugin(plugin: str) -> None:
    """Import a module by its name, or a Python file by its path, for what it registers."""
    if not plugin.endswith(".py"):
        importlib.import_module(plugin)
        return
    spec = importlib.util.spec_from_file_location(Path(plugin).stem, plugin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def _end_with_caller(parent: int, channel: Channel) -> None:
    """End this process when the caller does: killed by the kernel, or by a thread that sees the connection end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        _exit(1)
    threading.Thread(target=_exit_when_closed, args=(channel,), daemon=True).start()


def _exit_when_closed(channel: Channel) -> NoReturn:
    poller = select.poll()
    poller.register(channel.fileno(), 0)  # a hang-up is reported whatever is asked for
    poller.poll()
    _exit(1)


def _exit(code: int) -> NoReturn:
    """End at once: connections and device memory go with the process, and no teardown can hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
