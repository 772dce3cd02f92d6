"""What a rank keeps from one call of a program to the next, and the ops that read and write it.

With them a program may leave a stretch of itself out: ``fv.decide`` compares a value with what it was when the stretch
was computed last, and ``fv.resume`` stands where the stretch's result is used. Which calls only feed that result is
said by :attr:`NodeInfo.skippable`; where the decision is to skip, the interpreter leaves them out. Run without memory,
as programs with global shapes are, everything is computed.

Each rank keeps its own pieces. What is decided on is replicated, so that all ranks decide alike.

``fv.keep`` is of another kind: what follows from a call's *invariant* inputs alone, which is marked
:attr:`NodeInfo.invariant`, is computed once for all calls of which the caller says that they share these inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .factors import FactorRule, RuleBuilder
from .graph import operand_type, tensor_operands
from .ops.registry import OpDef, registry
from .program import Stage, info


class MemoryOp:
    """A target of ``call_function`` nodes. Called without a memory it is its value at a first call."""

    def __init__(self, name: str, first: Callable[..., Tensor]) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "fastvideo_ir.memory"
        self._first = first

    def __call__(self, *arguments: Any) -> Tensor:
        return self._first(*arguments)

    def __repr__(self) -> str:
        return f"fv.{self.__name__}"


recall = MemoryOp("recall", lambda value, slot: torch.zeros_like(value))
"""``recall(value, slot)``: what ``slot`` keeps, which has the type of ``value``; zeros where it keeps nothing."""

decide = MemoryOp("decide", lambda change, value, threshold, slot: change)
"""``decide(change, value, threshold, slot)``: skip, where ``change[0] < threshold * change[1]`` in every column.

Otherwise, and where ``slot`` keeps nothing, ``value`` is kept in it. ``change`` is ``[2, …]``, and passed on.
"""

resume = MemoryOp("resume", lambda computed, entry, decision, slot: computed)
"""``resume(computed, entry, decision, slot)``: ``computed``, whose difference from ``entry`` is kept in ``slot``; where
the decision was to skip, ``entry`` plus the difference that was kept."""

keep = MemoryOp("keep", lambda value, slot: value)
"""``keep(value, slot)``: ``value``, which is kept in ``slot``; where the invariant inputs are those of an earlier call,
what was kept then."""

MEMORY_OPS = (recall, decide, resume, keep)
MOST_INVARIANT = 2
"""Sets of invariant inputs whose results are kept: with and without the prompt."""


class Memory:
    """What one rank keeps between the calls of one program.

    Attributes:
        skipping: the decision of the call that runs.
        computed: calls that computed everything.
        skipped: calls that left the skippable part out.
        invariant: what ``fv.keep`` has kept for the invariant inputs of the call that runs; None: nothing is.
        reusing: whether it was kept by an earlier call.
    """

    def __init__(self) -> None:
        self.skipping = False
        self.invariant: dict[str, Tensor] | None = None
        self.reusing = False
        self.computed = 0
        self.skipped = 0
        self._kept: dict[str, Tensor] = {}

    def begin(self) -> None:
        """A call begins: nothing is decided."""
        self.skipping = False

    def leaves_out(self, node: fx.Node) -> bool:
        """Whether ``node`` is not computed in this call."""
        known = info(node)
        return (self.skipping and known.skippable) or (self.reusing and known.invariant)

    def perform(self, node: fx.Node, value_of: Callable[[fx.Node], Tensor]) -> Tensor:
        """Run a memory op."""
        values: list[Any] = [value_of(a) if isinstance(a, fx.Node) and not self.leaves_out(a) else a for a in node.args]
        if node.target is recall:
            kept = self._kept.get(values[1])
            return torch.zeros_like(values[0]) if kept is None else kept
        if node.target is keep:
            return self._keep(*values)
        return self._decide(*values) if node.target is decide else self._resume(*values)

    def _keep(self, value: Any, slot: str) -> Tensor:
        if self.invariant is not None and self.reusing:
            return self.invariant[slot]
        assert isinstance(value, Tensor)
        if self.invariant is not None:
            self.invariant[slot] = value
        return value

    def _decide(self, change: Tensor, value: Tensor, threshold: float, slot: str) -> Tensor:
        self.skipping = slot in self._kept and bool((change[0] < threshold * change[1]).all())
        if self.skipping:
            self.skipped += 1
        else:
            self._kept[slot] = value
            self.computed += 1
        return change

    def _resume(self, computed: Any, entry: Tensor, decision: Tensor, slot: str) -> Tensor:
        if self.skipping:
            return entry + self._kept[slot]
        assert isinstance(computed, Tensor)
        self._kept[slot] = computed - entry
        return computed


def recall_rule(node: fx.Node) -> FactorRule:
    """``… -> …``."""
    builder = RuleBuilder()
    dims = builder.dims(operand_type(tensor_operands(node)[0]).shape)
    return builder.rule([dims], [dims])


def decide_rule(node: fx.Node) -> FactorRule:
    """``c, … -> c``: the change is whole, so that ranks decide alike; the value may be in pieces."""
    change, value = (operand_type(operand).shape for operand in tensor_operands(node))
    builder = RuleBuilder()
    whole = [builder.whole(size) for size in change]
    return builder.rule([whole, builder.dims(value)], [whole])


def resume_rule(node: fx.Node) -> FactorRule:
    """``…, …, c -> …``: both values in the same pieces, the decision whole."""
    value, _, change = (operand_type(operand).shape for operand in tensor_operands(node))
    builder = RuleBuilder()
    dims = builder.dims(value)
    return builder.rule([dims, dims, [builder.whole(size) for size in change]], [dims])


registry.register(OpDef(recall, "fv.recall", rule=recall_rule, first=Stage.CANONICAL))
registry.register(OpDef(decide, "fv.decide", rule=decide_rule, first=Stage.CANONICAL))
registry.register(OpDef(resume, "fv.resume", rule=resume_rule, first=Stage.CANONICAL))
registry.register(OpDef(keep, "fv.keep", rule=recall_rule, first=Stage.COMMUNICATING))
