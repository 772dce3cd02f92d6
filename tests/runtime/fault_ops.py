"""Ops that go wrong in one rank. A plugin of the worker groups in these tests; the tests import it too."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from fastvideo_ir.ops.custom import custom_op


def own_rank() -> int:
    """The rank of this process: workers are told on their command line."""
    return next((int(argument.split("=")[1]) for argument in sys.argv if argument.startswith("--rank=")), 0)


@custom_op("fvtest::fault")
def fault(x: Tensor, kind: str, rank: int) -> Tensor:
    if own_rank() == rank:
        match kind:
            case "raise":
                raise ValueError("the flux capacitor is empty")
            case "interrupt":
                raise KeyboardInterrupt
            case "sleep":
                if mark := os.environ.get("FAULT_MARK"):
                    Path(mark).touch()  # tells the test that the call is under way
                time.sleep(3600)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "exit":
                print("last words")
                sys.stdout.flush()
                os._exit(7)
    return x.clone()


@fault.register_fake
def _(x: Tensor, kind: str, rank: int) -> Tensor:
    return torch.empty_like(x)
