"""Windows by denoising step, layer and head: given, or read from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastvideo_ir.errors import InvalidArgumentError

from .geometry import Triple


@dataclass(frozen=True)
class WindowSchedule:
    """The windows of a model.

    Attributes:
        table: ``int32[steps, layers, heads, 3]``, in tiles; one step where they are the same at each.
        origin: where they come from, for messages.
    """

    table: Tensor
    origin: str

    @property
    def steps(self) -> int:
        return self.table.shape[0]

    def at(self, step: int | None) -> Tensor:
        """``int32[layers, heads, 3]`` of a step.

        Raises:
            InvalidArgumentError: windows depend on the step, and none is known or it is beyond the last.
        """
        if self.steps == 1:
            return self.table[0]
        if step is None:
            raise InvalidArgumentError(
                f"the windows of {self.origin} depend on the denoising step, and no step is known",
                hint="call set_step(n) on the compiled model before each step; pipelines do",
            )
        if not 0 <= step < self.steps:
            raise InvalidArgumentError(
                f"denoising step {step} is beyond the {self.steps} steps of {self.origin}",
                hint="generate with that number of steps, or calibrate for this one",
            )
        return self.table[step]


def uniform(window: Triple | Sequence[Triple], layers: int, heads: int) -> WindowSchedule:
    """One window for all heads, or one for each, at every step and layer.

    Raises:
        InvalidArgumentError: there are windows for another number of heads.
    """
    rows = torch.tensor(window, dtype=torch.int32)
    if rows.dim() == 2 and len(rows) != heads:
        raise InvalidArgumentError(f"window={window!r} is for {len(rows)} heads, the model has {heads}")
    return WindowSchedule(rows.expand(1, layers, heads, 3).contiguous(), f"window={window!r}")


def read(path: Path) -> WindowSchedule:
    """The windows of a JSON file: keys ``"{step}_{layer}_{head}"``, values ``[wt, wh, ww]`` in tiles.

    Raises:
        InvalidArgumentError: there is no such file, it has another form, or entries are missing.
    """
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"the window file {path} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise InvalidArgumentError(f'the window file {path} holds no entries like "0_0_0": [3, 3, 3]')
    found: dict[tuple[int, ...], list[int]] = {}
    for key, value in entries.items():
        place = tuple(int(part) for part in key.split("_") if part.isdecimal())
        if len(place) != 3 or key.count("_") != 2:
            raise InvalidArgumentError(f'key {key!r} in {path} is not of the form "step_layer_head"')
        if not is_triple(value):
            raise InvalidArgumentError(f"entry {key!r} in {path} is {value!r}; expected three positive whole numbers")
        found[place] = value
    sizes = [max(place[dim] for place in found) + 1 for dim in range(3)]
    table = torch.zeros(*sizes, 3, dtype=torch.int32)
    for place, value in found.items():
        table[place] = torch.tensor(value, dtype=torch.int32)
    missing = (table[..., 0] == 0).nonzero()
    if len(missing):
        key = "_".join(map(str, missing[0].tolist()))
        raise InvalidArgumentError(
            f"the window file {path} has entries up to {sizes[0]} steps, {sizes[1]} layers and {sizes[2]} heads, "
            f"and {len(missing)} of them are missing, the first is {key!r}"
        )
    return WindowSchedule(table, str(path))


def check_fits(schedule: WindowSchedule, layers: int, heads: int) -> None:
    """Refuse windows that were made for another model.

    Raises:
        InvalidArgumentError: numbers of layers or heads differ.
    """
    _, for_layers, for_heads, _ = schedule.table.shape
    if (for_layers, for_heads) != (layers, heads):
        raise InvalidArgumentError(
            f"{schedule.origin} is for another model: it has windows for {for_layers} layers of {for_heads} heads, "
            f"this one has {layers} attentions over the token grid, of {heads} heads",
            hint="make a file for this model with `fastvideo calibrate`",
        )


def write(path: Path, table: Tensor) -> None:
    """Write ``int[steps, layers, heads, 3]`` in the form that :func:`read` takes."""
    entries: Mapping[str, list[int]] = {
        f"{step}_{layer}_{head}": window
        for step, layers in enumerate(table.tolist())
        for layer, heads in enumerate(layers)
        for head, window in enumerate(heads)
    }
    path.write_text(json.dumps(entries) + "\n")


def is_triple(value: object) -> bool:
    """Whether ``value`` is three positive whole numbers."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == 3
        and all(type(number) is int and number > 0 for number in value)
    )
