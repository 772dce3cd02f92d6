"""``fastvideo doctor``: what this machine can run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DEBUG

if TYPE_CHECKING:
    from ..runtime.machine import Machine

LEAST_SHARED_MEMORY = 2 * 2**30
"""Free bytes of /dev/shm below which weights of several CPU ranks may not fit."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    debug: DEBUG = False,
) -> None:
    """Tell what this machine can run: GPUs, links, kernels, encoders, and what to install for each missing one."""
    from ..extension import load_plugins
    from ..runtime.machine import examine

    load_plugins()
    machine = examine()
    typer.echo(json.dumps(asdict(machine), indent=2) if as_json else render(machine))


def render(machine: Machine) -> str:
    """The findings as text, one subject a paragraph."""
    from ..report.text import aligned, size

    packages = ", ".join(f"{name} {found or 'MISSING'}" for name, found in machine.packages.items())
    memory = f"{size(machine.memory)} of memory, " if machine.memory is not None else ""
    shared = machine.shared_memory_free
    room = f"{size(machine.disk_free)} free for temporary files"
    if shared is not None:
        few = " (LITTLE: several ranks on the CPU share weights there)" if shared < LEAST_SHARED_MEMORY else ""
        room += f", {size(shared)} of shared memory{few}"
    lines = [
        *aligned(
            [
                ("python", f"{machine.python} on {machine.system}"),
                ("packages", packages),
                ("cuda", f"{machine.cuda or 'torch is built without it'}, driver {machine.driver or 'not found'}"),
                ("host", f"{machine.cores} cores, {memory}{room}"),
            ]
        ),
        "",
        "GPUs",
        *_gpus(machine),
        "",
        "attention kernels" if machine.gpus else "attention kernels, on the CPU",
    ]
    rows = []
    for kernel in machine.kernels:
        state = "yes" if kernel.available else "no"
        note = kernel.reason + (f"; {kernel.install}" if kernel.install else "")
        rows.append((f"  {kernel.name}", state, note or ("" if kernel.automatic else "runs when it is named")))
    lines += aligned(rows)
    have = [name for name, found in machine.encoders.items() if found]
    lack = [name for name, found in machine.encoders.items() if not found]
    lines += ["", f"encoders: {', '.join(have)}" + (f" (not: {', '.join(lack)})" if lack else "")]
    return "\n".join(lines)


def _gpus(machine: Machine) -> list[str]:
    from ..report.text import aligned, size

    if not machine.gpus:
        return ["  none: models run on the CPU, with --num-gpus processes"]
    rows = [
        (
            f"  {number}",
            gpu.name,
            f"compute capability {gpu.capability}",
            f"{size(gpu.free)} free of {size(gpu.memory)}",
        )
        for number, gpu in enumerate(machine.gpus)
    ]
    lines = aligned(rows)
    lines += [f"  {link}" for link in machine.links]
    if machine.peer_access is not None:
        lines.append(f"  peer access: {'yes' if machine.peer_access else 'NO, exchanges go through host memory'}")
    return lines
