"""The ops of the ``fv`` dialect that are no computation: placements, transfers, and calls of Python.

Placement ops change where a value lives, not what it is. What exactly one does follows from the types of its operands
and results, so it carries no shapes: an all-to-all whose operand is ``[b, s@sp, h]`` and whose result is
``[b, s, h@sp]`` gathers the sequence and scatters the heads. Collectives take and return a row of tensors, so that
neighbours can share one exchange.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .errors import InvalidArgumentError
from .ops.registry import OpDef, Trait, registry
from .program import Stage


class PlacementOp:
    """A target of ``call_function`` nodes. Called on global values it is the identity."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "fastvideo_ir.dialect"

    def __call__(self, value: Any, *axis: str) -> Any:
        if isinstance(value, Tensor):
            return value
        assert isinstance(value, Sequence)
        return tuple(value)

    def __repr__(self) -> str:
        return f"fv.{self.__name__}"


reshard = PlacementOp("reshard")
"""``reshard(x)``: to the placement of the result's type, over any number of axes. Until ``lower-reshards``."""

shard = PlacementOp("shard")
"""``shard(x, axis)``: keep this rank's piece of a replicated value. Local."""

make_partial = PlacementOp("make_partial")
"""``make_partial(x, axis)``: a replicated value as a sum: the axis' first rank keeps it, others hold zeros. Local."""

all_gather = PlacementOp("all_gather")
"""``all_gather([x, …], axis)``: sharded to replicated."""

all_to_all = PlacementOp("all_to_all")
"""``all_to_all([x, …], axis)``: from one sharded dim, or layout, to another."""

reduce_scatter = PlacementOp("reduce_scatter")
"""``reduce_scatter([x, …], axis)``: partial to sharded."""

all_reduce = PlacementOp("all_reduce")
"""``all_reduce([x, …], axis)``: partial to replicated."""


class TransferOp:
    """A target of ``call_function`` nodes of local programs: one exchange of flat buffers between ranks.

    A transfer starts where it stands and is awaited where its result is first read. What stands in between runs
    meanwhile, so the order of the graph alone says what overlaps.

    Only an interpreter with a communicator can run it, so calling it is an error.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "fastvideo_ir.dialect"

    def __call__(self, value: Any, *arguments: Any) -> Any:
        raise InvalidArgumentError(f"{self!r} needs other ranks; run the program with run_rank or run_lockstep")

    def __repr__(self) -> str:
        return f"fv.{self.__name__}"


exchange = TransferOp("exchange")
"""``exchange(buffer, axis, sent, received)``: consecutive pieces of ``sent`` elements go to the peers in axis order."""

gather = TransferOp("gather")
"""``gather(buffer, axis, received)``: the buffers of all peers, end to end."""

sum_over = TransferOp("sum_over")
"""``sum_over(x, axis)``: the sum over the peers; any shape."""

broadcast = TransferOp("broadcast")
"""``broadcast(x)``: the first rank's value, on every rank of the mesh; the others bring memory of its shape."""

TRANSFERS = (exchange, gather, sum_over, broadcast)


class EagerCall:
    """The target of nodes that call a module which stays Python; see :attr:`Program.functions`."""

    __name__ = __qualname__ = "eager_call"
    __module__ = "fastvideo_ir.dialect"

    def __call__(self, operands: Any, function: str) -> Any:
        raise InvalidArgumentError(f"{self!r} of {function!r} needs the function; run the program that holds it")

    def __repr__(self) -> str:
        return "fv.eager_call"


eager_call = EagerCall()
"""``eager_call([x, …], function)``: the row that ``program.functions[function]`` gives for whole operands."""

COLLECTIVES = (all_gather, all_to_all, reduce_scatter, all_reduce)
LOCAL_PLACEMENTS = (shard, make_partial)

_placement = frozenset({Trait.PLACEMENT})
_collective = frozenset({Trait.PLACEMENT, Trait.COLLECTIVE})
registry.register(OpDef(reshard, "fv.reshard", _placement, first=Stage.PLACED, last=Stage.PLACED))
for _op in LOCAL_PLACEMENTS:
    registry.register(OpDef(_op, f"fv.{_op.__name__}", _placement, first=Stage.COMMUNICATING, last=Stage.COMMUNICATING))
for _op in COLLECTIVES:
    registry.register(
        OpDef(_op, f"fv.{_op.__name__}", _collective, first=Stage.COMMUNICATING, last=Stage.COMMUNICATING)
    )
for _transfer in TRANSFERS:
    registry.register(OpDef(_transfer, f"fv.{_transfer.__name__}", frozenset({Trait.COLLECTIVE}), first=Stage.LOCAL))
registry.register(OpDef(eager_call, "fv.eager_call", frozenset({Trait.RANDOM})))
registry.register(OpDef(operator.getitem, "getitem", frozenset({Trait.VIEW})))
