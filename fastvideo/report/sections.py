"""The stretches of a program that a reader thinks in: its repeated blocks, and what stands outside of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import is_getitem
from fastvideo_ir.repeats import Repeat, calls_of, whole_blocks

from ..passes.analysis import NodeTimes

OUTSIDE = "outside the blocks"
SHOWN_MODULES = 4


@dataclass(frozen=True)
class Section:
    """One stretch.

    Attributes:
        name: where in the model it is.
        modules: the modules that take most of its time; for what is outside of blocks alone.
        repeats: how often it occurs.
        nodes: the calls of its first occurrence.
        stream: types of what one occurrence makes and hands on.
    """

    name: str
    modules: tuple[str, ...]
    repeats: int
    nodes: tuple[fx.Node, ...]
    stream: tuple[str, ...]


def sections_of(program: ir.Program, times: NodeTimes) -> list[Section]:
    """Blocks in the model's order, then the rest."""
    calls = calls_of(program)
    position = {node: number for number, node in enumerate(calls)}
    sections, inside = [], set[int]()
    for repeat in whole_blocks(program, calls):
        inside.update(range(repeat.start, repeat.stop))
        first = calls[repeat.start : repeat.start + repeat.period]
        name = _name(first, calls[repeat.stop - repeat.period : repeat.stop])
        if all(ir.info(node).invariant for node in first):
            name += " (kept)"
        sections.append(Section(name, (), repeat.count, tuple(first), _stream(first, repeat, position)))
    rest = tuple(node for number, node in enumerate(calls) if number not in inside)
    if rest:
        sections.append(Section(OUTSIDE if sections else "the program", _modules(rest, times), 1, rest, ()))
    return sections


def _name(first: Sequence[fx.Node], last: Sequence[fx.Node]) -> str:
    """The paths of the first and the last block, as far as the part in which they differ."""
    start, end = _common_module(first), _common_module(last)
    differing = next((n for n, (a, b) in enumerate(zip(start, end, strict=False), 1) if a != b), None)
    if differing is None:
        return ".".join(start) or "a block"
    return f"{'.'.join(start[:differing])} … {'.'.join(end[:differing])}"


def _common_module(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """The longest module path that most of the nodes are in."""
    inside: Counter[tuple[str, ...]] = Counter()
    for node in nodes:
        parts = tuple(_module(node).split(".")) if _module(node) else ()
        inside.update(parts[: end + 1] for end in range(len(parts)))
    common = [path for path, count in inside.items() if count > len(nodes) / 2]
    return max(common, key=len, default=())


def _stream(first: Sequence[fx.Node], repeat: Repeat, position: dict[fx.Node, int]) -> tuple[str, ...]:
    """Types of the values that the first block makes and later ones read."""
    end = repeat.start + repeat.period
    found = []
    for node in first:
        for value in [user for user in node.users if is_getitem(user)] or [node]:
            if any(position.get(user, end) >= end for user in value.users if not is_getitem(user)):
                found.append(str(ir.tensor_type(value)))
    return tuple(found)


def _modules(nodes: Iterable[fx.Node], times: NodeTimes) -> tuple[str, ...]:
    """The parts of the model that take most time, numbered layers each by itself."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        parts = _module(node).split(".")
        number = next((end for end, part in enumerate(parts) if part.isdigit()), 0)
        seconds[".".join(parts[: number + 1]) or "the model itself"] += times.compute(node)
    return tuple(sorted(seconds, key=seconds.__getitem__, reverse=True)[:SHOWN_MODULES])


def _module(node: fx.Node) -> str:
    location = ir.info(node).location
    return location.module if location else ""
