"""What one rank keeps between the calls of one program, per generation and per kind of call."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from fastvideo_ir.memory import MOST_INVARIANT, Memory


@dataclass(frozen=True)
class Scope:
    """Which calls may use what others have kept.

    Attributes:
        generation: nothing outlives one.
        context: calls that alternate within a generation, such as with and without the prompt, keep apart.
        invariant: tells the invariant inputs of a call from those of all other calls; None: nothing is kept of them.
    """

    generation: int = 0
    context: str = ""
    invariant: int | None = None


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
        self._invariant: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    def of(self, scope: Scope) -> Memory:
        """The memory for a call. A new generation forgets all that was kept."""
        if scope.generation != self._generation:
            self._generation = scope.generation
            self._by_context.clear()
            self._invariant.clear()
        memory = self._by_context.setdefault(scope.context, Memory())
        memory.reusing = scope.invariant in self._invariant
        memory.invariant = None if scope.invariant is None else self._kept_for(scope.invariant)
        return memory

    def _kept_for(self, invariant: int) -> dict[str, Tensor]:
        """What is kept for some invariant inputs; those that were used longest ago make room for new ones."""
        if invariant not in self._invariant and len(self._invariant) == MOST_INVARIANT:
            self._invariant.popitem(last=False)
        kept = self._invariant.setdefault(invariant, {})
        self._invariant.move_to_end(invariant)
        return kept

    def release_invariant(self) -> None:
        """Free what follows from invariant inputs; it is computed again for the next call."""
        self._invariant.clear()

    @property
    def counts(self) -> CacheCounts:
        """Over all contexts."""
        kept = self._by_context.values()
        return CacheCounts(sum(memory.computed for memory in kept), sum(memory.skipped for memory in kept))
