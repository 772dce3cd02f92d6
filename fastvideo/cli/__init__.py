"""The command line: ``fastvideo generate``, ``calibrate``, ``plan``, ``bench``, ``models`` and ``doctor``.

Until an option has been read, nothing is imported that takes long; torch is imported by the command that needs it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        The exit status: 0, 1 for a failure, 2 for a wrong request, 130 when interrupted. A failure is one line on
        stderr; ``--debug`` adds the traceback.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    interrupts: list[int] = []
    try:
        with _noting(interrupts):
            from .app import app

            status = app(words, prog_name="fastvideo", standalone_mode=False)
        if status == INTERRUPTED:  # how the option parser passes Ctrl-C on
            return _say("interrupted", INTERRUPTED)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED, debug)
    except Exception as error:
        if interrupts:  # an import that Ctrl-C breaks off may fail with whatever error
            return _say("interrupted", INTERRUPTED, debug)
        return _say(*_told(error, debug), debug)


@contextmanager
def _noting(interrupts: list[int]) -> Iterator[None]:
    """Adds to ``interrupts`` when Ctrl-C is pressed, which raises KeyboardInterrupt as ever."""

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(error: Exception, debug: bool) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if hasattr(error, "format_message"):  # a usage error of the option parser, which some versions of typer vendor
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "fastvideo"
        return f"{error.format_message()} (see `{command} --help`)", REFUSED
    from fastvideo_ir import errors

    if isinstance(error, errors.FastVideoError):
        return str(error), REFUSED if isinstance(error, errors.InvalidArgumentError) else FAILED
    hint = "" if debug else " (run again with --debug for the traceback)"
    return f"{type(error).__name__}: {error}{hint}", FAILED


def _say(message: str, status: int, debug: bool = False) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
