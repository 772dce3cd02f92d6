"""What every executor does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from torch import Tensor

from ..memories import CacheCounts, Scope

WHOLE = Scope()
"""One scope for programs that keep nothing."""


class Executor(ABC):
    """One program, ready to run on its ranks. A context manager that closes itself.

    Class attributes:
        takes_new_weights: whether its ranks are sent new weights; otherwise it is made anew for them.
    """

    takes_new_weights: ClassVar[bool] = False

    @abstractmethod
    def run(self, inputs: Sequence[Tensor], scope: Scope = WHOLE) -> list[Any]:
        """Run the program once.

        Args:
            inputs: flat and whole, on any device.
            scope: which calls share what the program keeps.

        Returns:
            The flat and whole outputs on the program's device; constants stand where the program returns such.

        Raises:
            InvalidArgumentError: an input is not what the program was made for.
            WorkerError: a rank died, raised or hung.
            FastVideoError: the executor is closed.
        """

    @property
    @abstractmethod
    def cache_counts(self) -> CacheCounts:
        """How many calls of the last generation left blocks out; every rank the same."""

    @property
    def launching(self) -> str:
        """How the device's kernels are launched, and why so; empty where that is not decided by measuring."""
        return ""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether :meth:`run` can work: not closed, and every rank is there."""

    @abstractmethod
    def rest(self) -> None:
        """Free the weights on the device; the next :meth:`run` brings them back. For executors made to visit it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the program and its weights. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
