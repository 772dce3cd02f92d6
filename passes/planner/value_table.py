"""Where one value can live along an axis, and what it costs to have it there."""

from __future__ import annotations

from dataclasses import dataclass, field

import fastvideo_ir as ir

from .cost import CostModel


@dataclass
class ValueTable:
    """Placements of one value that some strategy yields or needs, and what moving between them costs."""

    kind: ir.TensorType
    placements: list[ir.Placement] = field(default_factory=lambda: [ir.Replicate()])
    costs: dict[tuple[int, int], float] = field(default_factory=dict)
    gaps: dict[tuple[int, int], float] = field(default_factory=dict)
    debts: dict[int, float] = field(default_factory=dict)

    def index(self, placement: ir.Placement) -> int:
        if placement not in self.placements:
            self.placements.append(placement)
        return self.placements.index(placement)

    def cheapest(self, mask: int, target: int, model: CostModel) -> float:
        """Cost of having the value at ``target`` when it exists in the placements of ``mask``."""
        if mask >> target & 1:
            return 0.0
        cost = self.costs.get((mask, target))
        if cost is None:
            wanted = self.placements[target]
            held = [placement for number, placement in enumerate(self.placements) if mask >> number & 1]
            cost = min(model.reshard(self.kind, placement, wanted) for placement in held)
            self.costs[mask, target] = cost
        return cost

    def gap(self, have: int, want: int, model: CostModel) -> float:
        """Cost of making every placement of ``want`` that is not among those of ``have``."""
        cost = self.gaps.get((have, want))
        if cost is None:
            missing = want & ~have
            targets = [number for number in range(len(self.placements)) if missing >> number & 1]
            cost = self.gaps[have, want] = sum(self.cheapest(have, target, model) for target in targets)
        return cost

    def debt(self, mask: int, model: CostModel) -> float:
        """The least that must still be paid for a value that exists as a partial sum alone."""
        owed = self.debts.get(mask)
        if owed is None:
            held = [placement for number, placement in enumerate(self.placements) if mask >> number & 1]
            ends = [p for p in self.placements if not isinstance(p, ir.Partial)]
            owed = 0.0
            if all(isinstance(placement, ir.Partial) for placement in held):
                owed = min(model.reshard(self.kind, ir.Partial(), end) for end in ends)
            self.debts[mask] = owed
        return owed
