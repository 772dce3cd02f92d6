"""The search: an exact dynamic program over live values, with dominance pruning and a wide beam.

    minimise   Σ compute(node, strategy) + Σ reshard(value, from, to)
    over       one strategy per node, its operands resharded where they live elsewhere

A state says, for each value that is still to be used, in which placements it exists by now (a value that was resharded
once is not resharded again). Exchanges for one node share a latency, since they will be packed. Nodes are taken in
graph order; a state is dropped where a cheaper one can be turned into it by resharding for no more than the difference.
Without the beam's bound the result is the optimum of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands
from fastvideo_ir.repeats import Repeat
from fastvideo_ir.values import Value, tensor_of

from .cost import CostModel, Work
from .pruning import Record, State, prune
from .value_table import ValueTable

EARLY = 1e-6
"""Relative surcharge on an exchange for an op without FLOPs: of equally cheap ones the one at the matmul is taken."""
SAME_COST = 1e-6
"""Relative difference below which two blocks cost the same."""
REPLICATED = 0
"""Every value's first placement is the replicated one."""


@dataclass(frozen=True)
class Choice:
    """A strategy of one node, in terms of its operands' tables: ``(value slot, placement index)`` per live operand."""

    strategy: Strategy
    needs: tuple[tuple[int, int], ...]
    gives: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class Offer:
    """What one choice comes to where the operands exist in certain placements.

    Attributes:
        costs: of the choice, then of the exchanges that it needs; not summed yet, so that equal plans stay equal.
        choice: its number.
        changed: by position among the kept values, where an operand exists afterwards.
        gives: where the results exist.
    """

    costs: tuple[float, ...]
    choice: int
    changed: tuple[tuple[int, int], ...]
    gives: State


@dataclass
class Step:
    """One node of the search: what it may do, which live values it keeps, and which of its results it adds."""

    node: fx.Node
    choices: list[Choice]
    kept: list[int]
    added: list[int]
    negligible: bool


@dataclass(frozen=True)
class Plan:
    """The result: a strategy per call, and the modelled cost in seconds."""

    strategies: dict[fx.Node, Strategy]
    seconds: float


@dataclass(frozen=True)
class Frontier:
    """The search between two nodes: the values still to be used, and the states reached."""

    position: int
    live: list[Value]
    states: dict[State, Record]


class Search:
    """Finds the cheapest strategies of a program's calls along one axis.

    Args:
        program: with global shapes; placements along settled axes are in the types.
        model: the costs.
        strategies: what each call may do; where replication is among it, it comes first.
        works: the work of every call.
        negligible: seconds below which a node that can run replicated is not worth dividing.
        repeats: stretches of equal blocks. Once a block adds the same to every state as the block before it, all
            further ones do, and its decisions are theirs.
    """

    def __init__(
        self,
        program: ir.Program,
        model: CostModel,
        strategies: dict[fx.Node, list[Strategy]],
        works: dict[fx.Node, Work],
        negligible: float,
        repeats: Sequence[Repeat] = (),
    ) -> None:
        self._program = program
        self._model = model
        self._strategies = strategies
        self._works = works
        self._negligible = negligible
        self._tables: dict[Value, ValueTable] = {}
        self._nodes = [n for n in program.nodes if n.op == "call_function" and not is_getitem(n)]
        self._position = {node: number for number, node in enumerate(self._nodes)}
        self._repeats = repeats
        self._last_use = self._last_uses()

    def run(self) -> Plan:
        """The cheapest plan found."""
        live = [(node, 0) for node in self._program.input_nodes if (node, 0) in self._last_use]
        for value in live:
            self._tables[value] = ValueTable(ir.tensor_type(value[0]))
        held = tuple(1 << self._tables[value].index(self._held(value[0])) for value in live)
        frontier = Frontier(0, live, {held: (0.0, -1, -1)})
        steps: list[Step] = []
        history: list[list[Record]] = []
        for repeat in self._repeats:
            frontier = self._walk(frontier, repeat.start, steps, history)
            frontier = self._walk_blocks(frontier, repeat, steps, history)
        frontier = self._walk(frontier, len(self._nodes), steps, history)
        return self._trace(steps, history, frontier)

    def _held(self, node: fx.Node) -> ir.Placement:
        """Where an input lives at first: on every rank, unless the user has placed it."""
        kind, axis = ir.tensor_type(node), self._model.axis
        return kind.placement(axis) if axis in ir.info(node).pinned else ir.Replicate()

    def _walk(self, at: Frontier, stop: int, steps: list[Step], history: list[list[Record]]) -> Frontier:
        """Take the nodes up to position ``stop``."""
        live, states = at.live, at.states
        for position in range(at.position, stop):
            node = self._nodes[position]
            step = self._step(node, live, position)
            states = self._advance(step, states, live)
            live = [live[slot] for slot in step.kept] + [(node, number) for number in step.added]
            states = prune(states, [self._tables[value] for value in live], self._model, self._negligible * SAME_COST)
            steps.append(step)
            history.append(list(states.values()))
        return Frontier(stop, live, states)

    def _walk_blocks(self, at: Frontier, repeat: Repeat, steps: list[Step], history: list[list[Record]]) -> Frontier:
        """Take a stretch of equal blocks; the last one always by itself, since values die in it."""
        last = repeat.stop - repeat.period
        while at.position < last:
            before = at
            at = self._walk(before, before.position + repeat.period, steps, history)
            added = self._steady_cost(before, at, repeat.period)
            blocks = self._alike(at.position, repeat.period, (last - at.position) // repeat.period)
            if added is not None and blocks:
                at = self._skip(at, repeat.period, blocks, added, steps, history)
        return self._walk(at, repeat.stop, steps, history)

    def _steady_cost(self, before: Frontier, after: Frontier, period: int) -> float | None:
        """What one block adds to every state alike; None where states differ."""
        if self._twins(before, period, period) != after.live or list(before.states) != list(after.states):
            return None
        added = [b[0] - a[0] for a, b in zip(before.states.values(), after.states.values(), strict=True)]
        return added[0] if max(added) - min(added) <= SAME_COST * added[0] else None

    def _alike(self, stop: int, period: int, blocks: int) -> int:
        """How many of the next blocks make values that live as long as those of the block that ends at ``stop``."""
        for number in range(1, blocks + 1):
            for position in range(stop - period, stop):
                node, twin = self._nodes[position], self._nodes[position + number * period]
                for result in range(len(result_types(node))):
                    here, there = self._last_use.get((node, result)), self._last_use.get((twin, result))
                    if there != (None if here is None else here + number * period):
                        return number - 1
        return blocks

    def _twins(self, at: Frontier, period: int, distance: int) -> list[Value]:
        """The live values as they are ``distance`` later: those made in the block that ends here have moved along."""
        result = []
        for node, number in at.live:
            made = self._position.get(node, -1)
            result.append((self._nodes[made + distance] if made >= at.position - period else node, number))
        return result

    def _skip(
        self, at: Frontier, period: int, blocks: int, added: float, steps: list[Step], history: list[list[Record]]
    ) -> Frontier:
        """Repeat the decisions of the block just taken for the next ``blocks`` ones."""
        template = list(zip(steps[-period:], history[-period:], strict=True))
        for number in range(1, blocks + 1):
            for offset, (step, records) in enumerate(template):
                steps.append(replace(step, node=self._nodes[at.position + (number - 1) * period + offset]))
                history.append(records)
        live = self._twins(at, period, blocks * period)
        for old, new in zip(at.live, live, strict=True):
            self._tables[new] = self._tables[old]
        states = {state: (cost + blocks * added, origin, choice) for state, (cost, origin, choice) in at.states.items()}
        return Frontier(at.position + blocks * period, live, states)

    def _last_uses(self) -> dict[Value, int]:
        result: dict[Value, int] = {}
        for position, node in enumerate(self._nodes):
            for operand in tensor_operands(node):
                result[tensor_of(operand)] = position
        for value in self._program.output_values:
            if isinstance(value, fx.Node):
                result[tensor_of(value)] = len(self._nodes)
        return result

    def _is_param(self, node: fx.Node) -> bool:
        return node.op == "placeholder" and node.name in self._program.params

    def _step(self, node: fx.Node, live: list[Value], position: int) -> Step:
        slots = {value: slot for slot, value in enumerate(live)}
        kinds = result_types(node)
        for number, kind in enumerate(kinds):
            if kind is not None:
                self._tables[node, number] = ValueTable(kind)
        operands = tensor_operands(node)
        added = [n for n in range(len(kinds)) if self._last_use.get((node, n), -1) > position]
        work = self._works[node]
        choices = []
        for strategy in self._strategies[node]:
            needs: dict[tuple[int, int], None] = {}
            for operand, placement in zip(operands, strategy.operands, strict=True):
                if not self._is_param(operand):
                    value = tensor_of(operand)
                    needs[slots[value], self._tables[value].index(placement)] = None
            gives = []
            for number in added:
                placed = strategy.results[number]
                assert placed is not None, "a result that is used is present"
                gives.append(1 << self._tables[node, number].index(placed))
            cost = self._model.compute(work, strategy)
            choices.append(Choice(strategy, tuple(needs), tuple(gives), cost))
        kept = [slot for slot, value in enumerate(live) if self._last_use[value] > position]
        may_rest = choices[0].strategy.divided is None and work.seconds < self._negligible
        return Step(node, choices, kept, added, may_rest)

    def _advance(self, step: Step, states: dict[State, Record], live: list[Value]) -> dict[State, Record]:
        result: dict[State, Record] = {}
        slots = sorted({slot for choice in step.choices for slot, _ in choice.needs})
        masks_of, kept_of = _picker(slots), _picker(step.kept)
        offers: dict[State, list[Offer]] = {}
        for origin, (state, (spent, _, _)) in enumerate(states.items()):
            masks = masks_of(state)
            found = offers.get(masks)
            if found is None:
                found = offers[masks] = self._offers(step, dict(zip(slots, masks, strict=True)), live)
            rest = kept_of(state)
            for offer in found:
                cost = sum(offer.costs, spent)
                if offer.changed:
                    moved = list(rest)
                    for position, mask in offer.changed:
                        moved[position] = mask
                    after = (*moved, *offer.gives)
                else:
                    after = rest + offer.gives
                old = result.get(after)
                if old is None or cost < old[0]:
                    result[after] = (cost, origin, offer.choice)
        return result

    def _offers(self, step: Step, masks: dict[int, int], live: list[Value]) -> list[Offer]:
        """What a node can do where its operands exist in ``masks``, by slot: the cheapest choice for each outcome."""
        eagerness = 1.0 if self._works[step.node].flops else 1 + EARLY
        latency = self._model.hardware.latency
        rests = step.negligible and all(masks[slot] & 1 for slot, _ in step.choices[0].needs)
        kept = [(position, slot) for position, slot in enumerate(step.kept) if slot in masks]
        best: dict[tuple[State, State], Offer] = {}
        for number, choice in enumerate(step.choices[:1] if rests else step.choices):
            costs, exchanges = [choice.cost], 0
            after = dict(masks)
            for slot, target in choice.needs:
                move = self._tables[live[slot]].cheapest(masks[slot], target, self._model)
                exchanges += move >= latency
                costs.append(move * eagerness)
                after[slot] |= 1 << target
            if exchanges > 1:
                costs.append(-(exchanges - 1) * latency)
            outcome = tuple(after[slot] for _, slot in kept), choice.gives
            old = best.get(outcome)
            if sum(costs) != math.inf and (old is None or sum(costs) < sum(old.costs)):
                changed = tuple((position, after[slot]) for position, slot in kept if after[slot] != masks[slot])
                best[outcome] = Offer(tuple(costs), number, changed, choice.gives)
        return list(best.values())

    def _trace(self, steps: Sequence[Step], history: list[list[Record]], end: Frontier) -> Plan:
        """Outputs are gathered; then back from the cheapest end."""
        tables = [self._tables[value] for value in end.live]
        totals = [
            cost + sum(table.cheapest(mask, REPLICATED, self._model) for mask, table in zip(state, tables, strict=True))
            for state, (cost, _, _) in end.states.items()
        ]
        at = min(range(len(totals)), key=totals.__getitem__)
        seconds = totals[at]
        strategies: dict[fx.Node, Strategy] = {}
        for step, records in zip(reversed(steps), reversed(history), strict=True):
            _, previous, choice = records[at]
            strategies[step.node] = step.choices[choice].strategy
            at = previous
        return Plan(strategies, seconds)


def _picker(slots: Sequence[int]) -> Callable[[State], State]:
    """Takes the masks of ``slots`` out of a state; millions of states make this the search's inner loop."""
    if len(slots) > 1:
        return itemgetter(*slots)
    if not slots:
        return lambda state: ()
    (slot,) = slots
    return lambda state: (state[slot],)
