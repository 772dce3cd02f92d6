"""Small sharded programs, written down as text, and what watches processes from outside."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import fastvideo_ir as ir

CPU = torch.device("cpu")
FAULT_OPS = str(Path(__file__).with_name("fault_ops.py"))


def program(ranks: int, body: str, axes: str | None = None) -> ir.Program:
    return ir.parse_program(f"program stage=communicating mesh=({axes or f'sp={ranks}'}) {{\n{body}\n}}")


def linear(ranks: int) -> ir.Program:
    """``x @ w.T`` for x of 10 × 5 and w of 7 × 5: rows to columns and back, output features sharded. All uneven."""
    return program(
        ranks,
        """
        %w : f32[7@sp, 5] = param "w" parameter
        %x : f32[10, 5] = input
        %rows : f32[10@sp, 5] = fv.shard(%x, "sp")
        %exchanged : (f32[10, 5@sp]) = fv.all_to_all([%rows], "sp")
        %columns : f32[10, 5@sp] = getitem(%exchanged, 0)
        %gathered : (f32[10, 5]) = fv.all_gather([%columns], "sp")
        %whole : f32[10, 5] = getitem(%gathered, 0)
        %y : f32[10, 7@sp] = aten.linear.default(%whole, %w)
        %outputs : (f32[10, 7]) = fv.all_gather([%y], "sp")
        %out : f32[10, 7] = getitem(%outputs, 0)
        return (%out, 3)""",
    )


def faulty(ranks: int, kind: str, rank: int) -> ir.Program:
    """One rank misbehaves while the others wait for it in a collective."""
    return program(
        ranks,
        f"""
        %x : f32[10, 5] = input
        %rows : f32[10@sp, 5] = fv.shard(%x, "sp")
        %same : f32[10@sp, 5] = fvtest.fault.default(%rows, "{kind}", {rank})
        %gathered : (f32[10, 5]) = fv.all_gather([%same], "sp")
        %out : f32[10, 5] = getitem(%gathered, 0)
        return (%out)""",
    )


def is_running(pid: int) -> bool:
    """Whether a process exists; a zombie counts."""
    return os.path.exists(f"/proc/{pid}")


def wait_until_gone(pids: Iterable[int], seconds: float) -> list[int]:
    """Those that still run after that time."""
    pids = list(pids)
    wait_until(lambda: not any(map(is_running, pids)), seconds)
    return [pid for pid in pids if is_running(pid)]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
