"""``fv.fetch``: brings a param from where it is kept, the host's memory, to the device, for the calls that read it.

As with transfers between ranks, the order of the graph alone says what overlaps: a fetch starts where it stands, and is
awaited where its result is first read. What it brought is freed behind its last use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from .factors import FactorRule, RuleBuilder
from .graph import operand_type, tensor_operands
from .ops.registry import OpDef, Trait, registry
from .pending import Pending
from .program import Program, Stage


class FetchOp:
    """A target of ``call_function`` nodes. Called outside of an interpreter it is the identity."""

    __name__ = __qualname__ = "fetch"
    __module__ = "fastvideo_ir.fetching"

    def __call__(self, value: Tensor) -> Tensor:
        return value

    def __repr__(self) -> str:
        return "fv.fetch"


fetch = FetchOp()
"""``fetch(param)``: the same value, on the device."""


def kept_on_host(program: Program) -> set[fx.Node]:
    """The params that nothing but fetches reads: they need no memory of the device."""
    return {node for node in program.param_nodes if node.users and all(user.target is fetch for user in node.users)}


def start(value: Tensor, device: torch.device) -> Tensor | Pending:
    """Copy ``value`` to new memory on ``device``; to a CUDA device beside what is computed there."""
    if device.type != "cuda":
        return value.to(device, copy=True)
    result = torch.empty_like(value, device=device)
    computing: Any = torch.cuda.current_stream(device)
    copying: Any = _copying_stream(device)
    copying.wait_stream(computing)  # what had this memory before may still be read by calls that are queued
    with torch.cuda.stream(copying):
        result.copy_(value, non_blocking=True)
        arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(copying)
    return Pending(result, lambda: torch.cuda.current_stream(device).wait_event(arrived), value)


@lru_cache
def _copying_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _rule(node: fx.Node) -> FactorRule:
    """``… -> …``."""
    builder = RuleBuilder()
    dims = builder.dims(operand_type(tensor_operands(node)[0]).shape)
    return builder.rule([dims], [dims])


registry.register(OpDef(fetch, "fv.fetch", frozenset({Trait.VIEW}), rule=_rule, first=Stage.COMMUNICATING))
