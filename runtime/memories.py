"""What one rank keeps between the calls of one program, per generation and per kind of call."""

from __future__ import annotations

from dataclasses import dataclass

from fastvideo_ir.memory import Memory


@dataclass(frozen=True)
class Scope:
    """Which calls may use what others have kept.

    Attributes:
        generation: nothing outlives one.
        context: calls that alternate within a generation, such as with and without the prompt, keep apart.
    """

    generation: int = 0
    context: str = ""


@dataclass(frozen=True)
class CacheCounts:
    """Calls of the last generation: those that computed everything, and those that left blocks out."""

    computed: int
    skipped: int


class Memories:
    """The memories of one program on one rank."""

    def __init__(self) -> None:
        self._generation = 0
        self._by_context: dict[str, Memory] = {}

    def of(self, scope: Scope) -> Memory:
        """The memory for a call. A new generation forgets all that was kept."""
        if scope.generation != self._generation:
            self._generation = scope.generation
            self._by_context.clear()
        return self._by_context.setdefault(scope.context, Memory())

    @property
    def counts(self) -> CacheCounts:
        """Over all contexts."""
        kept = self._by_context.values()
        return CacheCounts(sum(memory.computed for memory in kept), sum(memory.skipped for memory in kept))
