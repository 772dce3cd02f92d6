"""Which of the search's states are worth going on with: those that no cheaper one can be turned into, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .cost import CostModel
from .value_table import ValueTable

BEAM = 256
COMPARED = 12

State = tuple[int, ...]
"""Per live value, a bit set of the placements in which it exists."""
Record = tuple[float, int, int]
"""How a state was reached: its cost, the index of the state before, and the choice taken."""


def prune(
    states: dict[State, Record], tables: Sequence[ValueTable], model: CostModel, quantum: float
) -> dict[State, Record]:
    """The most promising states, at most :data:`BEAM`, in order of what they cost with all partial sums settled.

    A state is dropped where one of the :data:`COMPARED` best can be turned into it by resharding for no more than the
    difference of their costs.

    Args:
        states: how each was reached.
        tables: of the live values.
        model: the costs.
        quantum: seconds; costs that differ by less are equal, and the states themselves say which comes first.
    """
    if len(states) == 1:
        return states
    rows = list(zip(*states, strict=True))
    columns = [list(set(masks)) for masks in rows]
    differing = [slot for slot, masks in enumerate(columns) if len(masks) > 1]
    pairs = [(slot, mask) for slot in differing for mask in columns[slot]]
    places: dict[int, dict[int, int]] = {slot: {} for slot in differing}
    for number, (slot, mask) in enumerate(pairs):
        places[slot][mask] = number
    codes = np.array([[place[mask] for mask in rows[slot]] for slot, place in places.items()], dtype=int)
    gaps = np.zeros(len(pairs))
    compared: dict[int, int] = {}
    costs = np.array([cost for cost, _, _ in states.values()])

    def total(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per state, the sum of what ``seconds`` says, pair by pair, of the masks in it."""
        if not differing:
            return np.zeros(len(states))
        return seconds[codes].sum(axis=0)  # type: ignore[no-any-return]

    owed = costs + total(np.array([tables[slot].debt(mask, model) for slot, mask in pairs]))
    owed += sum(tables[slot].debt(masks[0], model) for slot, masks in enumerate(columns) if len(masks) == 1)
    dominated = np.zeros(len(states), dtype=bool)
    records = list(states.values())
    kept: dict[State, Record] = {}
    for _, state, number in sorted(zip(np.rint(owed / quantum).tolist(), states, range(len(states)), strict=True)):
        if dominated[number]:
            continue
        kept[state] = records[number]
        if len(kept) == BEAM:
            break
        if len(kept) <= COMPARED:
            for slot, place in places.items():  # most masks are those of the state compared before
                have = state[slot]
                if compared.get(slot) != have:
                    compared[slot] = have
                    for mask, at in place.items():
                        gaps[at] = tables[slot].gap(have, mask, model)
            dominated |= costs[number] + total(gaps) <= costs
    return kept
