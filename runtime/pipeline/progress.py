"""Progress of a generation: the stage, the step, the time per step, what remains, and the memory in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import psutil
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress(Protocol):
    """What stages report to."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of this many steps begins."""

    def step(self, seconds: float) -> None:
        """A step of the stage is done; it took so long."""


class _NoProgress:
    def stage(self, name: str, steps: int) -> None:
        pass

    def step(self, seconds: float) -> None:
        pass


NO_PROGRESS: Progress = _NoProgress()


class RichProgress:
    """A bar on the terminal, on stderr; a context manager. Prints nothing where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[memory]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, name: str, steps: int) -> None:
        self._task = self._bar.add_task(name, total=steps, pace="", memory="")

    def step(self, seconds: float) -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=1, pace=f"{seconds:.2f} s/step", memory=_memory_in_use())


def _memory_in_use() -> str:
    """Of this rank's GPU, or of this process where there is none."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{(total - free) / 2**30:.1f} of {total / 2**30:.0f} GiB"
    return f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"


@contextmanager
def progress_view(enabled: bool) -> Iterator[Progress]:
    """A terminal bar, or nothing."""
    if not enabled:
        yield NO_PROGRESS
        return
    with RichProgress() as bar:
        yield bar
