"""What the first rank computes for all: random numbers, and modules that stay Python.

Every rank has a generator of its own, and the modules live with the caller, who is rank 0. So such a node runs there
alone, on whole operands, in the order of the graph, and ``localize`` broadcasts what it yields. With one seed any
number of ranks then draws what the model itself draws.
"""

from __future__ import annotations

import torch
from torch import fx

from . import dialect
from .graph import bind
from .ops.registry import Trait, has_trait


def runs_on_first_rank(node: fx.Node) -> bool:
    """Whether no other rank may run ``node``, and its operands and results are whole."""
    return node.target is dialect.eager_call or draws_random_numbers(node)


def draws_random_numbers(node: fx.Node) -> bool:
    """Whether ``node`` takes numbers from a generator. Dropout in evaluation does not."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in node.target.tags and not has_trait(node, Trait.RANDOM):
        return False
    arguments = bind(node)
    idle = arguments.get("train") is False or arguments.get("training") is False or arguments.get("dropout_p") == 0
    return not idle
