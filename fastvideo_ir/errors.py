"""Typed errors. Every error a user can meet derives from :class:`FastVideoError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FastVideoError(Exception):
    """Base of all errors of this project.

    Args:
        message: what was wrong and what was expected, in one sentence.
        hint: what to do about it, in one sentence.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)


class InvalidArgumentError(FastVideoError, ValueError):
    """An argument has a value that can never work. Raised before anything heavy starts."""


class UnknownNameError(InvalidArgumentError):
    """A name (pass, backend, field, ...) that is not registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if not nearest:
            by_case = {n.lower(): n for n in names}
            nearest = [by_case[m] for m in difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.5)]
        hint = f"did you mean {nearest[0]!r}?" if nearest else None
        self.name = name
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}", hint=hint)


class CaptureError(FastVideoError):
    """No capture strategy produced a graph that is bit-equal to the model."""


class EagerCallError(FastVideoError):
    """A module that stays Python did what its program was not made for: other shapes, writes to its arguments.

    Args:
        module: its path in the model.
        what: it did.
    """

    def __init__(self, module: str, what: str) -> None:
        self.module, self.what = module, what
        super().__init__(
            f"module {module!r}, which stays Python, {what}",
            hint="its results may depend on the values of its operands, but their shapes must not",
        )


class VerificationError(FastVideoError):
    """A Program breaks a rule of the IR; the text shows the node, its surroundings and its origin."""


class ParseError(FastVideoError):
    """A ``.fvir`` text is not well formed."""


class BackendUnavailableError(FastVideoError):
    """A backend that was asked for by name cannot run here; the message carries its reason."""


class ShardingError(FastVideoError):
    """A placement, or a pinned parallelism, that is impossible for this program."""


class IdleAxisError(ShardingError):
    """A mesh axis that would divide too little of a program's work for its ranks to be of use."""


class DeviceMemoryError(FastVideoError):
    """What was asked for does not fit into a device's memory; names settings with which it would."""


class WorkerError(FastVideoError):
    """A rank died, raised or hung. Names the rank and carries its traceback."""

    def __init__(self, rank: int, message: str, *, hint: str | None = None) -> None:
        self.rank = rank
        super().__init__(f"rank {rank}: {message}", hint=hint)


class PipelineLoadError(FastVideoError):
    """A folder is not a pipeline that can be loaded, or one of its files is missing or damaged."""


class GenerationCancelledError(FastVideoError):
    """A callback asked a generation to stop."""
