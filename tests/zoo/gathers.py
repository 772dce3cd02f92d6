"""All-gathers of the token stream inside repeated blocks, each with what ``explain()`` has to say for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import fastvideo_ir as ir
from fastvideo.passes.analysis import Gathers, NodeTimes
from fastvideo.passes.plan_sharding import at_scale
from fastvideo.passes.planner.cost import Hardware
from fastvideo_ir.graph import result_types

from .blocks import BlockTraffic, steady, stream

Verdict = Literal["cheaper", "needed", "step", "dearer"]
EQUAL = 1 + 1e-6
"""Ratio of seconds up to which two ways cost the same."""


@dataclass(frozen=True)
class TokenGather:
    """One all-gather of half of a token stream or more.

    Attributes:
        axis: along which.
        verdict: cheaper: the ops that read it take no longer with it than in their cheapest way without; dearer: they
            do; needed: there is no way without, since ``ops`` read all of it; step: a part of a longer move.
        ops: that read all of it, if it is needed.
    """

    axis: str
    verdict: Verdict
    ops: tuple[str, ...] = ()


def token_gathers(program: ir.Program, blocks: Sequence[BlockTraffic]) -> list[TokenGather]:
    """Of all blocks but the first of their kind. Priced as the plan was: tiny tensors as if they were at full size."""
    nodes = [
        node
        for block in steady(list(blocks))
        for node in block.gathers
        if stream(block) and any(math.prod(kind.shape) >= stream(block) / 2 for kind in result_types(node) if kind)
    ]
    if not nodes:
        return []
    hardware = at_scale(program, Hardware(), frozenset())
    prices = Gathers(program, NodeTimes(program, hardware), hardware)
    found = []
    for node in nodes:
        axis, ways = str(node.args[1]), prices.compare(node)
        if ways is None:
            found.append(TokenGather(axis, "step"))
        elif ways.otherwise is None:
            found.append(TokenGather(axis, "needed", ways.taken_whole_by))
        else:
            found.append(TokenGather(axis, "cheaper" if ways.planned <= EQUAL * ways.otherwise else "dearer"))
    return found
