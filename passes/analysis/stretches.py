"""The stretches of a program whose params are brought together: its repeated blocks, and parts of the rest."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.repeats import block_starts, calls_of, find_repeats

MOST_AT_ONCE = 1 / 8
"""Share of all params that is brought at once outside of repeated blocks."""


def stretches_of(program: ir.Program) -> list[list[fx.Node]]:
    """The calls, cut at the model's repeated blocks, and wherever too many params would be brought at once."""
    calls = [node for node in program.nodes if node.op == "call_function"]
    heads, cuts = calls_of(program), block_starts(program)
    repeated = {node for repeat in find_repeats(program, heads) for node in heads[repeat.start : repeat.stop]}
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
