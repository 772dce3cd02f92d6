"""``cache-blocks``: leaves most of the model out where its first block says that little has changed between calls.

First-block caching, as in ParaAttention (2024) after TeaCache (Liu et al., 2024): a denoising step calls the model with
inputs close to the last step's. What the first block adds to the tokens is computed every time. Where it differs
relatively less than a threshold from what it added when all blocks were computed last, what the other blocks added
then is added again.

Blocks are found by structure. Of each chain of equal blocks the first one is always computed; the others are left out
together. Nothing is known of a model but that blocks hand a stream of tokens on, each in the type in which it came.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir import memory
from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.graph import is_getitem
from fastvideo_ir.ops.define import aten
from fastvideo_ir.repeats import Repeat, whole_blocks
from fastvideo_ir.values import tensor_of

SMALLEST_SHARE = 0.2
"""Chains with less of the work are computed: a decision by what refines the prompt, say, would never change."""
FIRST = "first"


class CacheBlocks(ir.Pass):
    """Needs ``mark-skippable`` behind it, once collectives stand in the graph.

    Every sample of a batch must have changed little. The first call after a reset computes everything.

    Attributes:
        threshold: relative change, Σ |now − then| / Σ |then|, of what the first block adds.
    """

    name = "cache-blocks"
    needs = ir.Stage.CANONICAL
    preserves_numerics = False

    threshold: float = 0.1

    @property
    def approximates(self) -> str | None:
        return f"cache=first-block:{self.threshold:g}"

    def run(self, program: ir.Program) -> None:
        lives = _Lives(program)
        chains = [chain for repeat in whole_blocks(program, lives.calls) if (chain := lives.chain(repeat))]
        if not chains:
            raise InvalidArgumentError(
                "there is no chain of at least three equal blocks that hand a stream of values on and do most of the "
                "work, so that none can be cached",
                hint="leave cache out for this model",
            )
        rewriter = ir.Rewriter(program, self.name)
        decision = self._decide(rewriter, chains[0])
        for number, chain in enumerate(chains):
            for stream, (entry, exit_) in enumerate(zip(chain.entries, chain.exits, strict=True)):
                slot = f"chain{number}.stream{stream}"
                after = max(exit_, decision, key=list(program.nodes).index)
                result = rewriter.insert(memory.resume, (exit_, entry, decision, slot), after=after, sources=(exit_,))
                _use_instead(rewriter, exit_, result, chain.inside)

    def _decide(self, rewriter: ir.Rewriter, chain: _Chain) -> fx.Node:
        """The relative change of what the first block adds to its largest stream, and the decision on it."""
        number = max(range(len(chain.entries)), key=lambda n: ir.tensor_type(chain.entries[n]).numel)
        after, before = chain.entries[number], chain.before[number]
        kind = ir.tensor_type(after)
        at = max(chain.entries, key=list(rewriter.program.nodes).index)
        wide = torch.float64 if kind.dtype is torch.float64 else torch.float32
        # With three dims the first is the batch: each of its samples has its own change.
        dims = list(range(1 if len(kind.shape) > 2 else 0, len(kind.shape)))

        def add(target: object, *args: object, **kwargs: object) -> fx.Node:
            nonlocal at
            assert callable(target)
            at = rewriter.insert(target, args, kwargs, after=at, sources=(after,))
            return at

        added = add(aten.sub.Tensor, after, before)
        then = add(memory.recall, added, FIRST)
        change = add(aten.abs.default, add(aten.sub.Tensor, added, then))
        distance = add(aten.sum.dim_IntList, change, dims, False, dtype=wide)
        size = add(aten.sum.dim_IntList, add(aten.abs.default, then), dims, False, dtype=wide)
        return add(memory.decide, add(aten.stack.default, [distance, size]), added, self.threshold, FIRST)


def _use_instead(rewriter: ir.Rewriter, value: fx.Node, result: fx.Node, inside: frozenset[fx.Node]) -> None:
    """Let what reads ``value`` behind the chain read ``result``."""

    def is_behind(user: fx.Node) -> bool:
        return user is not result and user not in inside

    rewriter.replace(value, result, only=is_behind, erase=False)


@dataclass(frozen=True)
class _Chain:
    """The blocks of one chain that may be left out.

    Attributes:
        before: streams as the block before them reads them; only of use where the chain comes first.
        entries: streams as they read them.
        exits: streams as they leave them, in the same order.
        inside: all of their calls.
    """

    before: tuple[fx.Node, ...]
    entries: tuple[fx.Node, ...]
    exits: tuple[fx.Node, ...]
    inside: frozenset[fx.Node]


class _Lives:
    """When values are made and read, by position among the calls."""

    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self.calls = [node for node in program.nodes if node.op == "call_function" and not is_getitem(node)]
        self._position = {node: number for number, node in enumerate(self.calls)}
        self._made: dict[fx.Node, int] = {}
        self._read: dict[fx.Node, int] = {}
        for node in program.nodes:
            if node.op == "output" or not isinstance(ir.value_type(node), ir.TensorType):
                continue
            self._made[node] = self._position.get(tensor_of(node)[0], -1)
            self._read[node] = max((self._position.get(user, len(self.calls)) for user in node.users), default=-1)
        self._flops = [_flops(node) for node in self.calls]

    def is_param(self, node: fx.Node) -> bool:
        return node.name in self._program.params

    def chain(self, repeat: Repeat) -> _Chain | None:
        """What of ``repeat`` may be left out; None where its blocks hand on no stream, or do little of the work."""
        edges = range(repeat.start, repeat.stop + 1, repeat.period)
        for first in (1, 2):
            if len(edges) < first + 2 or sum(self._flops[edges[first] : edges[-1]]) < SMALLEST_SHARE * sum(self._flops):
                return None
            start, stop = edges[first], edges[-1]
            exits = [n for n, made in self._made.items() if start <= made < stop <= self._read[n]]
            entries = [self._shifted(node, start - stop) for node in exits]
            if not exits or not all(node and self._read[node] >= start for node in entries):
                return None  # a value from the middle of the chain is read behind it
            streams = [node for node in entries if node is not None]
            before = [self._stream_before(node, edges[first - 1], start, repeat.period) for node in streams]
            known = [node for node in before if node is not None]
            if len(known) == len(streams):
                inside = {n for n, made in self._made.items() if start <= made < stop} | set(self.calls[start:stop])
                return _Chain(tuple(known), tuple(streams), tuple(exits), frozenset(inside))
        return None

    def _shifted(self, node: fx.Node, distance: int) -> fx.Node | None:
        """The same result of the same call some blocks before, if it is of the same type."""
        maker, number = tensor_of(node)
        position = self._position[maker] + distance
        if position < 0 or self.calls[position].target is not maker.target:
            return None
        twin = self.calls[position]
        if is_getitem(node):
            twin = next((user for user in twin.users if is_getitem(user) and user.args[1] == number), twin)
        return twin if ir.value_type(twin) == ir.value_type(node) else None

    def _stream_before(self, entry: fx.Node, start: int, stop: int, period: int) -> fx.Node | None:
        """What the block from ``start`` to ``stop`` made ``entry`` of: its type, and read there for the last time."""
        twin = self._shifted(entry, -period)
        if twin is not None and start - period <= self._made[twin] < start <= self._read[twin] < stop:
            return twin
        kind = ir.value_type(entry)
        fits = [
            n for n, made in self._made.items() if made < start <= self._read[n] < stop and ir.value_type(n) == kind
        ]
        fits = [node for node in fits if not self.is_param(node)]
        return fits[0] if len(fits) == 1 else None


def _flops(node: fx.Node) -> int:
    op = ir.ops.of(node)
    return op.flops(node) if op is not None and op.flops is not None else 0
