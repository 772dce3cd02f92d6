"""The op registry: one record per op."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import fx

from ..errors import InvalidArgumentError
from ..factors import FactorRule
from ..mesh import Coordinates, Mesh
from ..program import Stage, tensor_type


class Trait(enum.Enum):
    """What passes may rely on."""

    VIEW = "view"
    """Moves no bytes: the result shares the operand's storage, or could."""
    RANDOM = "random"
    """Draws from a generator; never duplicated, removed or sharded."""
    COLLECTIVE = "collective"
    """Exchanges data between the ranks of an axis."""
    PLACEMENT = "placement"
    """Changes where a value lives, not what it is: the identity on global values."""


RuleFunction: TypeAlias = Callable[[fx.Node], FactorRule | None]
"""Factor rule of a node, from the global types of its operands and its arguments; None: nothing may be sharded."""


@dataclass(frozen=True)
class RankView:
    """What a localize function sees: the mesh, and where the rank stands on it."""

    mesh: Mesh
    at: Coordinates

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Local shape of the one tensor that ``node`` yields."""
        return tensor_type(node).local_shape(self.mesh, self.at)


LocalizeFunction: TypeAlias = Callable[[fx.Node, RankView], tuple[Any, tuple[Any, ...], dict[str, Any]]]
"""Turns a node with global shape arguments into (target, args, kwargs) with those of one rank."""


class Emit(Protocol):
    """Adds one call in front of the op that is being expanded, and infers its type."""

    def __call__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node: ...


ExpansionFunction: TypeAlias = Callable[[fx.Node, Emit], Sequence[fx.Node]]
"""Writes a node as calls of ops that have ordinary rules, at global shapes; one value per result.

Reductions over dims that may be sharded must be sums, and must be small: each is reduced over the ranks.
"""


@dataclass(frozen=True)
class OpDef:
    """All that the compiler knows of one op.

    Attributes:
        target: the callable that stands in the graph.
        name: its name in text, e.g. ``aten.linear.default``.
        traits: what passes may rely on.
        rule: how it may be sharded; None for an op that needs all of its operands.
        localize: how shape arguments become local; None where it has none.
        flops: floating point operations at global shapes; None where they do not count.
        expansion: the same in terms of other ops, for when a STATISTIC factor of its rule is sharded.
        first: the first stage at which it may occur.
        last: the last one.
    """

    target: Callable[..., Any]
    name: str
    traits: frozenset[Trait] = frozenset()
    rule: RuleFunction | None = None
    localize: LocalizeFunction | None = None
    flops: Callable[[fx.Node], int] | None = None
    expansion: ExpansionFunction | None = None
    first: Stage = Stage.CAPTURED
    last: Stage = Stage.LOWERED


class OpRegistry:
    """Ops by target and by name."""

    def __init__(self) -> None:
        self._by_target: dict[Any, OpDef] = {}
        self._by_name: dict[str, OpDef] = {}

    def register(self, op: OpDef) -> OpDef:
        """Add an op.

        Raises:
            InvalidArgumentError: its target or name is taken.
        """
        if op.target in self._by_target or op.name in self._by_name:
            raise InvalidArgumentError(f"op {op.name} is registered already")
        self._by_target[op.target] = op
        self._by_name[op.name] = op
        return op

    def find(self, target: Any) -> OpDef | None:
        return self._by_target.get(target)

    def named(self, name: str) -> OpDef | None:
        return self._by_name.get(name)

    @property
    def ops(self) -> Mapping[str, OpDef]:
        return self._by_name


registry = OpRegistry()
"""The ops of this process."""


def of(node: fx.Node) -> OpDef | None:
    """The record of the op that ``node`` calls, if it has one."""
    return registry.find(node.target) if node.op == "call_function" else None


def has_trait(node: fx.Node, trait: Trait) -> bool:
    op = of(node)
    return op is not None and trait in op.traits


def target_name(target: Any) -> str:
    """Name of a call target in text: ``aten.linear.default``, ``getitem``, ``fv.reshard``."""
    op = registry.find(target)
    if op is not None:
        return op.name
    name = getattr(target, "name", None)
    if callable(name):
        return str(target)
    return f"{target.__module__}.{target.__qualname__}"
