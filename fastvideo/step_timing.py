"""How long a call takes: the first one, which compiles, and those that follow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastvideo_ir.errors import InvalidArgumentError

from .report.text import aligned, seconds, size

Inputs = Mapping[str, Any]
WARM_UPS = 2
"""Calls before those that are timed: the first one, and one that finds everything compiled."""


@dataclass(frozen=True)
class CallTimes:
    """What calls took on one device.

    Attributes:
        first: seconds of the first call, compilation included.
        seconds: of each timed call.
        peak_memory: bytes of tensors on this process's device, weights included; None on the CPU, which counts none.
    """

    first: float
    seconds: tuple[float, ...]
    peak_memory: int | None

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Seconds between the fastest and the slowest call."""
        return max(self.seconds) - min(self.seconds)


def time_calls(
    call: Callable[[Inputs], Any], inputs: Sequence[Inputs], device: torch.device, warm_ups: int = WARM_UPS
) -> tuple[CallTimes, Tensor]:
    """Call once with each of ``inputs``; all but the first ``warm_ups`` are timed.

    Returns:
        The times, and the first tensor that the first call returned, in float32 on the CPU.

    Raises:
        InvalidArgumentError: there are too few inputs, or the call returns no tensor.
    """
    if len(inputs) <= warm_ups:
        raise InvalidArgumentError(f"{len(inputs)} calls leave none to time; {warm_ups} go before")
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    taken = []
    with torch.no_grad():
        for number, given in enumerate(inputs):
            started = time.perf_counter()
            output = call(given)
            if cuda:
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - started)
            if number == 0:
                result = _first_tensor(output).float().cpu()
            del output
    peak = torch.cuda.max_memory_allocated(device) if cuda else None
    return CallTimes(taken[0], tuple(taken[warm_ups:]), peak), result


@dataclass(frozen=True)
class Row:
    """A contender, its times, and how far its first output is from that of the first row."""

    contender: str
    times: CallTimes
    difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; seconds and bytes."""
        times = self.times
        return {"contender": self.contender, "median": times.median, "difference": self.difference, **asdict(times)}


def table(rows: Sequence[Row]) -> str:
    """The rows as text; how many times faster each is than the first."""
    head = ("", "first call", "step", "spread", "faster", "difference", "peak memory")
    lines = [head]
    for row in rows:
        times = row.times
        figures = (seconds(times.first), seconds(times.median), seconds(times.spread))
        faster = f"{rows[0].times.median / times.median:.2f} ×"
        error = "" if row.difference is None else f"{row.difference:.1e}"
        peak = "not counted" if times.peak_memory is None else size(times.peak_memory)
        lines.append((row.contender, *figures, faster, error, peak))
    return "\n".join(aligned(lines))


def difference(output: Tensor, reference: Tensor) -> float:
    """‖output − reference‖ / ‖reference‖."""
    return float((output - reference).norm() / reference.norm())


def step_inputs(inputs: Inputs, invariant: Sequence[str], steps: int, device: torch.device) -> list[Inputs]:
    """What the steps of one generation bring: new values at each, but for arguments that stay the same.

    Args:
        inputs: of one step; tensors of floating-point numbers get new normal values.
        invariant: names of the arguments that are the same tensors at every step.
        steps: how many.
        device: where the tensors are to be.
    """
    random = torch.Generator().manual_seed(1)
    placed = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}

    def renewed(name: str, value: Any) -> Any:
        if name in invariant or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=random).to(device, value.dtype)

    return [{name: renewed(name, value) for name, value in placed.items()} for _ in range(steps)]


def _first_tensor(output: Any) -> Tensor:
    found = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if found is None:
        raise InvalidArgumentError(f"the call returns a {type(output).__name__} without a tensor")
    return found
