"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..parallel import Parallel

DEBUG = Annotated[bool, typer.Option(help="Show the traceback of an error.")]
PARALLEL = Annotated[
    str | None, typer.Option(help="Pin how the ranks share the work, such as sp=4,tp=2; planned if left out.")
]

MODEL = Annotated[
    str,
    typer.Option(help="Folder or config.json of a model, pipeline folder or hub id, or package.module:Class."),
]
SHAPE = Annotated[
    list[str] | None,
    typer.Option(help="An input: name=sizes, with a dtype if need be, as in timestep=1:int64. Repeat it."),
]
ARG = Annotated[
    list[str] | None,
    typer.Option(help="An input that is no tensor: name=JSON, as in num_frames=16. Repeat it."),
]
DTYPE = Annotated[str, typer.Option(help="Dtype of the weights and of inputs without one.")]
CONFIG = Annotated[
    Path | None, typer.Option(help="YAML or JSON file with constructor arguments, or replacements for config.json.")
]
HEIGHT = Annotated[int | None, typer.Option(help="Height of the video, for pipelines of a known family.")]
WIDTH = Annotated[int | None, typer.Option(help="Width of the video, likewise.")]
NUM_FRAMES = Annotated[int | None, typer.Option(help="Number of frames, likewise.")]
PASSES = Annotated[str | None, typer.Option(help='Passes, such as "default,-pack-collectives".')]
INVARIANT = Annotated[
    list[str] | None, typer.Option(help="An argument that stays the same over many calls. Repeat it.")
]
OFFLOAD = Annotated[str, typer.Option(help="Where weights are: auto, none, or blocks for the host.")]
JSON = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - prints it instead of text."),
]


def as_parallel(value: Any) -> Parallel:
    """``"sp=4,tp=2"``, or a mapping from a config file, as a division of the work.

    Raises:
        InvalidArgumentError: it cannot be read.
        UnknownNameError: there is no such axis.
    """
    from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

    from ..parallel import AXES, Parallel

    pairs = value.items() if isinstance(value, dict) else [part.split("=", 1) for part in str(value).split(",")]
    sizes: dict[str, Any] = {}
    for pair in pairs:
        axis, size = str(pair[0]).strip(), str(pair[-1]).strip()
        if len(pair) != 2 or not size.isdigit():
            raise InvalidArgumentError(f"cannot read parallel={value!r}; expected e.g. sp=4,tp=2")
        if axis not in AXES:
            raise UnknownNameError("mesh axis", axis, AXES)
        sizes[axis] = int(size)
    return Parallel(**sizes)
