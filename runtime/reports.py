"""What a rank leaves behind when it fails: an error report and a log, in the private directory of its group."""

from __future__ import annotations

import json
import signal
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

_LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Report:
    """An exception of a worker.

    Attributes:
        summary: type and message in one line.
        traceback: as Python prints it.
        lost_peer: the rank only lost its connection to another one, which is the one to blame.
    """

    summary: str
    traceback: str
    lost_peer: bool


def log_path(directory: Path, rank: int) -> Path:
    """Standard output and standard error of a rank."""
    return directory / f"rank{rank}.log"


def write_report(directory: Path, rank: int, error: BaseException, lost_peer: bool) -> None:
    """Called in the worker, right before it ends."""
    summary = traceback.format_exception_only(error)[-1].strip()
    report = Report(summary, "".join(traceback.format_exception(error)), lost_peer)
    unfinished = directory / f"rank{rank}.unfinished"
    unfinished.write_text(json.dumps(asdict(report)))
    unfinished.rename(_report_path(directory, rank))


def read_report(directory: Path, rank: int) -> Report | None:
    """The report of a worker that has ended; None where it was killed, or failed before it could write one."""
    path = _report_path(directory, rank)
    return Report(**json.loads(path.read_text())) if path.exists() else None


def log_tail(directory: Path, rank: int) -> str:
    """The last lines that a worker wrote."""
    path = log_path(directory, rank)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()


def describe_death(directory: Path, rank: int, returncode: int | None) -> str:
    """Why a worker ended, for the text of an error: what happened, its traceback, its last words."""
    report = read_report(directory, rank)
    if report is not None:
        text = f"raised {report.summary}\n--- traceback of rank {rank} ---\n{report.traceback.rstrip()}"
    elif returncode is None:
        text = "closed its connection but does not end"
    elif returncode < 0:
        text = f"was killed by {_signal_name(-returncode)}"
        if -returncode == signal.SIGKILL:
            text += ", by somebody or by the kernel for want of memory"
    else:
        text = f"ended with exit code {returncode}"
    tail = log_tail(directory, rank)
    return f"{text}\n--- last output of rank {rank} ---\n{tail}" if tail else text


def _report_path(directory: Path, rank: int) -> Path:
    return directory / f"rank{rank}.error"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
