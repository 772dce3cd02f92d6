"""Repeated blocks: stretches of the graph that are the same ops on the same shapes, again and again.

Two calls match where op, rule, work and plain arguments agree and each operand is either made at the same distance
before them, or is the very same value, or has the same type and is held when a block begins: a param, or a value that
is kept. A model's blocks show up as a long run of calls that match the calls one *period* later; no name is looked at.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from .dialect import eager_call
from .fetching import fetch
from .graph import is_getitem, map_arguments, tensor_operands
from .memory import keep
from .program import Program, value_type
from .values import tensor_of

FEWEST = 3
"""Fewer blocks than these are not worth it."""
SHORTEST = 8
"""A block has at least this many calls."""
MOST_PERIODS = 8
MOST_CALLS_OF_A_KIND = 32
"""In one block; those of kinds that are called more often tell nothing of its length."""


@dataclass(frozen=True)
class Repeat:
    """``count`` blocks of ``period`` calls from position ``start`` on."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.count


def calls_of(program: Program) -> list[fx.Node]:
    """What a program computes, in graph order: without the elements of rows, and without fetches of params."""
    return [n for n in program.nodes if n.op == "call_function" and not is_getitem(n) and n.target is not fetch]


def is_held(program: Program, node: fx.Node) -> bool:
    """Whether ``node`` is what a rank holds when a block begins.

    That is a param, fetched or not, a value that is kept, or an input that is taken apart, so that each block reads a
    row of its own.
    """
    if node.target is torch.ops.aten.unbind.int:
        (source,) = node.all_input_nodes
        return source.op == "placeholder"
    return node.name in program.params or node.target in (fetch, keep)


def find_repeats(
    program: Program, calls: Sequence[fx.Node], detail: Callable[[fx.Node], Hashable] = lambda _: None
) -> list[Repeat]:
    """Repeated blocks, disjoint and in order.

    Args:
        program: of the calls.
        calls: in graph order.
        detail: what else must be equal, by call.
    """
    keys = _keys(calls, detail)
    position = {node: number for number, node in enumerate(calls)}
    found: list[Repeat] = []
    for period in _periods(keys):
        number = 0
        while number + period < len(calls):
            run = number
            while (
                run + period < len(calls)
                and keys[run] == keys[run + period]
                and _same_operands(calls[run], calls[run + period], period, position, program)
            ):
                run += 1
            count = (run - number) // period + 1
            if count >= FEWEST:
                found.append(Repeat(number, period, count))
            number = run + 1
    return _disjoint(found)


def _keys(calls: Sequence[fx.Node], detail: Callable[[fx.Node], Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    result = []
    for node in calls:
        plain = map_arguments(node, lambda _: "%")
        # Which function an eager call runs is like which weight an op reads: no part of what the block is.
        arguments = repr(plain[0][:1] if node.target is eager_call else plain)
        key = (node.target, arguments, value_type(node), detail(node))
        result.append(numbers.setdefault(key, len(numbers)))
    return result


def _periods(keys: Sequence[int]) -> list[int]:
    """Likely periods: the commonest distances between calls of one kind, without their multiples.

    A block may call one kind many times, so that distances to several earlier calls count.
    """
    earlier: dict[int, deque[int]] = {}
    distances: Counter[int] = Counter()
    for number, key in enumerate(keys):
        seen = earlier.setdefault(key, deque(maxlen=MOST_CALLS_OF_A_KIND))
        distances.update(number - before for before in seen if number - before >= SHORTEST)
        seen.append(number)
    chosen: list[int] = []
    for distance, _ in distances.most_common():
        if all(distance % period for period in chosen):
            chosen.append(distance)
            if len(chosen) == MOST_PERIODS:
                break
    return chosen


def _same_operands(left: fx.Node, right: fx.Node, period: int, position: dict[fx.Node, int], program: Program) -> bool:
    for a, b in zip(tensor_operands(left), tensor_operands(right), strict=True):
        (maker_a, result_a), (maker_b, result_b) = tensor_of(a), tensor_of(b)
        if maker_a is maker_b and result_a == result_b:
            continue
        if is_held(program, maker_a) and is_held(program, maker_b) and value_type(maker_a) == value_type(maker_b):
            continue
        shifted = maker_a in position and maker_b in position and position[maker_b] - position[maker_a] == period
        if not shifted or result_a != result_b:
            return False
    return True


def _disjoint(repeats: list[Repeat]) -> list[Repeat]:
    """The longest ones, without overlaps."""
    chosen: list[Repeat] = []
    for repeat in sorted(repeats, key=lambda r: (r.start - r.stop, r.period)):
        if all(repeat.stop <= other.start or other.stop <= repeat.start for other in chosen):
            chosen.append(repeat)
    return sorted(chosen, key=lambda r: r.start)


def alive_before(calls: Sequence[fx.Node]) -> list[int]:
    """Per call, how many values made by earlier calls are still to be used."""
    position = {node: number for number, node in enumerate(calls)}
    change = [0] * (len(calls) + 1)
    for node, made in position.items():
        users = [user for direct in node.users for user in (direct.users if is_getitem(direct) else [direct])]
        last = max((position.get(user, len(calls) - 1) for user in users), default=made)
        if last > made:
            change[made + 1] += 1
            change[last + 1] -= 1
    alive, total = [], 0
    for number in range(len(calls)):
        total += change[number]
        alive.append(total)
    return alive


def turned(repeat: Repeat, alive: Sequence[int]) -> int:
    """Position within the first block at which the fewest values cross: where a block is best cut from the next."""
    return min(range(repeat.start, repeat.start + repeat.period), key=lambda position: alive[position])


def block_starts(program: Program) -> set[fx.Node]:
    """The calls in front of which a program is cut at its repeated blocks: where the fewest values cross."""
    calls = calls_of(program)
    alive = alive_before(calls)
    starts: set[fx.Node] = set()
    for repeat in find_repeats(program, calls):
        edges = range(turned(repeat, alive), repeat.stop + 1, repeat.period)
        starts.update(calls[position] for position in edges if position < len(calls))
    return starts


def whole_blocks(program: Program, calls: Sequence[fx.Node]) -> list[Repeat]:
    """The model's blocks as a reader would count them: cut where few values cross, the outermost ones included.

    The first block reads what no block made and the last one may feed something else, so that :func:`find_repeats`
    leaves parts of them out; here a neighbouring stretch of the same calls is a block as well. Disjoint and in order.
    """
    keys, alive = _keys(calls, lambda _: None), alive_before(calls)
    found: list[Repeat] = []
    for repeat in find_repeats(program, calls):
        first = found[-1].stop if found else 0
        fewest = alive[turned(repeat, alive)]
        edges = [at for at in range(repeat.start, repeat.start + repeat.period) if alive[at] == fewest]
        options = [_extended(keys, repeat, edge, first) for edge in edges]
        found.append(max(options, key=lambda option: option.count))
    return found


def _extended(keys: Sequence[int], repeat: Repeat, start: int, first: int) -> Repeat:
    """Blocks cut at ``start``, with the stretches before and behind that are the same calls."""
    period = repeat.period
    stop = start + (repeat.stop - start) // period * period
    block = keys[start : start + period]
    while start - period >= first and keys[start - period : start] == block:
        start -= period
    while keys[stop : stop + period] == block:
        stop += period
    return Repeat(start, period, (stop - start) // period)
