"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..parallel import Parallel

DEBUG = Annotated[bool, typer.Option(help="Show the traceback of an error.")]
PARALLEL = Annotated[
    str | None, typer.Option(help="Pin how the ranks share the work, such as sp=4,tp=2; planned if left out.")
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
