"""The stretches of a program whose params are brought together: its repeated blocks, and parts of the rest."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.repeats import alive_before, calls_of, find_repeats, is_held, turned

MOST_AT_ONCE = 1 / 8
"""Share of all params that is brought at once outside of repeated blocks."""


def stretches_of(program: ir.Program) -> list[list[fx.Node]]:
    """The calls, cut at the model's repeated blocks, and wherever too many params would be brought at once."""
    calls = [node for node in program.nodes if node.op == "call_function"]
    heads = calls_of(program)
    alive = alive_before(heads)
    cuts: set[fx.Node] = set()
    repeated: set[fx.Node] = set()
    for repeat in find_repeats(heads, lambda node: is_held(program, node), lambda _: None):
        edges = range(turned(repeat, alive), repeat.stop + 1, repeat.period)
        cuts.update(heads[position] for position in edges if position < len(heads))
        repeated.update(heads[repeat.start : repeat.stop])
    params = {node: ir.tensor_type(node).nbytes for node in program.param_nodes}
    limit = MOST_AT_ONCE * sum(params.values())
    result: list[list[fx.Node]] = [[]]
    held: set[fx.Node] = set()
    for node in calls:
        read = {operand for operand in node.all_input_nodes if operand in params}
        full = node not in repeated and not read <= held and sum(params[param] for param in held | read) > limit
        if result[-1] and (node in cuts or full):
            result.append([])
            held = set()
        result[-1].append(node)
        held |= read
    return [stretch for stretch in result if stretch]
