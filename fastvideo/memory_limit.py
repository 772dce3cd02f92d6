"""Refuses programs that a device cannot hold, and finds the settings with which it could."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from fastvideo_ir.errors import DeviceMemoryError, FastVideoError

from .passes.analysis import Memory
from .passes.pipelines import Target
from .planned import Plan, Planned, plan_within_memory
from .report.text import size
from .settings import Settings

MOST_RANKS = 8
"""More are not suggested."""


def check_memory(what: str, planned: Planned, plan: Plan) -> None:
    """Refuse a program whose predicted peak on a rank is beyond the memory that it was planned for.

    Args:
        what: the model's name, for the text.
        planned: the program.
        plan: the same for another target.

    Raises:
        DeviceMemoryError: names a setting with which it fits, if one is found.
    """
    if not planned.fits:
        found, there = planned.memory, planned.target.memory
        raise DeviceMemoryError(
            f"{what} takes {size(found.total)} per rank at its peak ({_parts(found)}), and {size(there)} are there",
            hint=remedy(planned.target, plan),
        )


def visits_op_by_op(model: nn.Module, settings: Settings, *, visits: bool) -> bool:
    """Whether a model is checked on its device with its weights there op by op, since it may not hold all of them.

    ``visits``: they are in the host's memory while it is not the model's turn.
    """
    params = list(model.parameters())
    short = visits and 0 < settings.memory < 2 * sum(p.nbytes for p in params)
    is_home = all(p.device.type == "cpu" for p in params)
    return is_home and settings.device.type != "cpu" and (short or settings.offload == "blocks")


def _parts(memory: Memory) -> str:
    parts = [("weights", memory.weights), ("activations", memory.activations), ("inputs", memory.inputs)]
    return ", ".join(f"{size(nbytes)} {name}" for name, nbytes in [*parts, ("CUDA", memory.allowance)] if nbytes)


def remedy(target: Target, plan: Plan) -> str:
    """What makes a program fit that does not fit as it is planned for ``target``, in words."""
    for setting, other in _alternatives(target):
        try:
            planned = plan_within_memory(other, plan)
        except FastVideoError:
            continue  # the work cannot be divided so
        if planned.fits:
            return f"it fits with {setting}, where it takes {size(planned.memory.total)}"
    return "no setting makes it fit: ask for fewer frames or a smaller picture"


def _alternatives(target: Target) -> Iterator[tuple[str, Target]]:
    """Settings that need less memory, those that cost least time first."""
    if target.ranks > 1 and target.shard_params is False:
        yield "Parallel(…, shard_params=True)", replace(target, shard_params=True)
    if target.offload_params is False:
        yield 'offload="blocks"', replace(target, offload_params=True)
    if target.device == "cpu":
        return  # ranks share its memory
    ranks = 2 * target.ranks
    as_needed = ', offload="auto"' if target.offload_params is False else ""
    while ranks <= MOST_RANKS:
        yield f"num_gpus={ranks}{as_needed}", replace(target, ranks=ranks, offload_params=target.offload_params or None)
        ranks *= 2
