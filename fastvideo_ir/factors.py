"""Factor rules: which loops an op runs over, and which of them may be cut over a mesh axis.

A rule names the op's *factors* (its loop indices) and writes every dim of every operand and result as a sum of products
of factors::

    linear          b s i, o i, o -> b s o        i is summed
    reshape         b (h d) -> b h d              a product: d is the minor factor
    cat             s, t -> (s + t)               a sum: one term per operand

To shard an op is to assign a layout to one factor (or to one factor in each term of a sum). The layouts of all dims
follow, and so do the placements of operands and result; whatever the op is, nothing more is needed. The notation
follows Shardy (OpenXLA) and einops; sums and units are ours.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import ShardingError
from .layout import Layout
from .types import Partial, Placement, Replicate, Shard, TensorType


class FactorKind(enum.Enum):
    """What may be done with a factor."""

    PARALLEL = "parallel"
    """Iterations do not depend on each other."""
    SUM = "sum"
    """Iterations are summed: sharded, it leaves a partial sum."""
    STATISTIC = "statistic"
    """Iterations meet in small statistics alone: sharded, the op is run as its expansion, which reduces just these."""
    NEIGHBOURS = "neighbours"
    """Iterations read what lies next to their own: sharded, the ranks exchange the edges of their pieces (a halo)."""
    WHOLE = "whole"
    """Every rank needs all of it."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One loop index of an op; ``halo``: what a piece reads beyond its own, as a share of the first operand."""

    size: int
    kind: FactorKind = FactorKind.PARALLEL
    halo: float = 0.0


Term: TypeAlias = tuple[int, ...]
"""Product of factors (by index), major to minor; the empty product has size one."""
DimExpr: TypeAlias = tuple[Term, ...]
"""Sum of terms, in storage order."""
TensorExpr: TypeAlias = tuple[DimExpr, ...]
Assignment: TypeAlias = Mapping[int, Layout]
"""Layouts by factor index."""


@dataclass(frozen=True, slots=True)
class Travel:
    """A loop that one rank may run over piece by piece, while the pieces go around the ranks of an axis (a ring).

    Attributes:
        factor: the loop; WHOLE where nothing travels.
        stays: the factor whose pieces stay on their ranks of the same axis.
        operands: those that travel; ``factor`` alone makes up one dim of each.
    """

    factor: int
    stays: int
    operands: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FactorRule:
    """The factors of one op at given shapes.

    Attributes:
        factors: all of them.
        operands: expression of every tensor operand, in the order of :func:`fastvideo_ir.graph.tensor_operands`.
        results: expression of every result; None for an absent one.
        linear: sets of operands in which the op is jointly linear: partial sums of all of them give a partial result.
        addends: operands that are added to a sum over a SUM factor (a bias): they must be partial where it is sharded.
        travel: what may go around the ranks of an axis, if anything.
    """

    factors: tuple[Factor, ...]
    operands: tuple[TensorExpr, ...]
    results: tuple[TensorExpr | None, ...]
    linear: tuple[tuple[int, ...], ...] = ()
    addends: tuple[int, ...] = ()
    travel: Travel | None = None

    def size(self, term: Term) -> int:
        return math.prod(self.factors[index].size for index in term)

    def dim_size(self, expr: DimExpr) -> int:
        return sum(self.size(term) for term in expr)

    def assign(self, expr: DimExpr, layout: Layout) -> dict[int, Layout] | None:
        """The assignment under which ``expr`` has ``layout``, or None where there is none."""
        parts = layout.split([self.size(term) for term in expr])
        if parts is None:
            return None
        result: dict[int, Layout] = {}
        for term, part in zip(expr, parts, strict=True):
            found = self._assign_term(term, part)
            if found is None:
                return None
            index, factor_layout = found
            if result.setdefault(index, factor_layout) != factor_layout:
                return None
        return result

    def _assign_term(self, term: Term, layout: Layout) -> tuple[int, Layout] | None:
        for position, index in enumerate(term):
            if self.factors[index].size == 1 and len(term) > 1:
                continue
            divided = layout.divided(self.size(term[position + 1 :]))
            inner = divided.untiled(self.size(term[:position])) if divided else None
            if inner is not None and inner.size == self.factors[index].size:
                return index, inner
        return None

    def complete(self, assignment: Assignment) -> dict[int, Layout] | None:
        """Extend an assignment so that every sum is sharded in all of its terms or in none.

        None where that is impossible: a WHOLE factor is touched, two kinds of factor are mixed, or pieces that need
        their neighbours are not in one row.
        """
        result = dict(assignment)
        changed = True
        while changed:
            changed = False
            for expr in self._sums():
                touched = [any(index in result for index in term) for term in expr]
                if not any(touched) or all(touched):
                    continue
                units = {s.unit for layout in result.values() for s in layout.segments}
                for term, done in zip(expr, touched, strict=True):
                    if done:
                        continue
                    if not term:
                        return None
                    index = next((i for i in term if self.factors[i].size > 1), term[0])
                    size = self.factors[index].size
                    unit = max((u for u in units if size % u == 0), default=1)
                    result[index] = Layout.even(size, unit)
                    changed = True
        kinds = {self.factors[index].kind for index in result}
        if FactorKind.NEIGHBOURS in kinds and any(len(layout.segments) > 1 for layout in result.values()):
            return None
        return result if len(kinds) == 1 and FactorKind.WHOLE not in kinds else None

    def _sums(self) -> list[DimExpr]:
        tensors = (*self.operands, *(r for r in self.results if r is not None))
        return [expr for tensor in tensors for expr in tensor if len(expr) > 1]

    def layout(self, expr: DimExpr, assignment: Assignment) -> Layout | None:
        """The layout of a dim under an assignment; None where the dim is whole.

        Raises:
            ShardingError: the assignment shards two factors of one product, or one term of a sum alone.
        """
        parts: list[Layout] = []
        for term in expr:
            hit = [position for position, index in enumerate(term) if index in assignment]
            if len(hit) > 1:
                raise ShardingError("two factors of one product cannot be sharded over one axis")
            if hit:
                inner = assignment[term[hit[0]]]
                parts.append(inner.scaled(self.size(term[hit[0] + 1 :])).tiled(self.size(term[: hit[0]])))
        if not parts:
            return None
        if len(parts) != len(expr):
            raise ShardingError("one term of a sum cannot be sharded alone")
        return Layout.concatenated(parts)

    def is_sum(self, assignment: Assignment) -> bool:
        return any(self.factors[index].kind is FactorKind.SUM for index in assignment)

    def placements(self, assignment: Assignment) -> Strategy | None:
        """Placements of operands and results along one axis under an assignment.

        None where a tensor would be sharded in two dims over the same axis.
        """
        summed = self.is_sum(assignment)
        operands: list[Placement] = []
        for number, tensor in enumerate(self.operands):
            placement = self._placement(tensor, assignment)
            if placement is None:
                return None
            operands.append(Partial() if summed and number in self.addends else placement)
        results: list[Placement | None] = []
        for tensor_expr in self.results:
            if tensor_expr is None:
                results.append(None)
                continue
            placement = self._placement(tensor_expr, assignment)
            if placement is None:
                return None
            results.append(Partial() if summed else placement)
        factors = [self.factors[index] for index in assignment]
        expanded = any(factor.kind is FactorKind.STATISTIC for factor in factors)
        halo = next((factor.halo for factor in factors if factor.kind is FactorKind.NEIGHBOURS), None)
        return Strategy(tuple(operands), tuple(results), self._divided(assignment), expanded, halo=halo)

    def _placement(self, tensor: TensorExpr, assignment: Assignment) -> Placement | None:
        try:
            layouts = [self.layout(expr, assignment) for expr in tensor]
        except ShardingError:
            return None
        hit = [(dim, layout) for dim, layout in enumerate(layouts) if layout is not None]
        if len(hit) > 1:
            return None
        return Shard(*hit[0]) if hit else Replicate()

    def _divided(self, assignment: Assignment) -> Layout | None:
        """The layout of a dim that the assignment cuts: its pieces say how the work is divided."""
        tensors = [r for r in self.results if r is not None] + list(self.operands)
        for tensor in tensors:
            for expr in tensor:
                touched = {index for term in expr for index in term}
                if touched & assignment.keys():
                    return self.layout(expr, assignment)
        return None

    def strategies(self, layouts: Sequence[Sequence[Sequence[Layout]]]) -> list[Strategy]:
        """Every way to shard the op over one axis, the replicated one excluded.

        Args:
            layouts: candidate layouts per tensor (operands, then present results) and dim.
        """
        tensors = [*self.operands, *(r for r in self.results if r is not None)]
        assignments: dict[tuple[tuple[int, Layout], ...], dict[int, Layout]] = {}
        for tensor, dims in zip(tensors, layouts, strict=True):
            for expr, candidates in zip(tensor, dims, strict=True):
                for layout in candidates:
                    assignment = self.assign(expr, layout)
                    complete = self.complete(assignment) if assignment else None
                    if complete:
                        assignments[tuple(complete.items())] = complete
        found: dict[Strategy, None] = {}
        for complete in assignments.values():
            strategy = self.placements(complete)
            if strategy is not None:
                found[strategy] = None
        for operands in self.linear:
            placed = [Partial() if n in operands else Replicate() for n in range(len(self.operands))]
            results = tuple(None if r is None else Partial() for r in self.results)
            found[Strategy(tuple(placed), results, None)] = None
        return list(found)

    def ring_strategies(self, layouts: Sequence[Sequence[Sequence[Layout]]]) -> list[Strategy]:
        """Every way to run the op as a ring over one axis; arguments as for :meth:`strategies`.

        Where what stays and what travels are equally long, both are cut alike.
        """
        if self.travel is None:
            return []
        stays, travels = ((((index,),)) for index in (self.travel.stays, self.travel.factor))
        staying = _layouts_of(stays, self.operands, layouts)
        found: dict[Strategy, None] = {}
        for layout in staying:
            base = self.placements({self.travel.stays: layout})
            if base is None:
                continue
            same = self.factors[self.travel.factor].size == layout.size
            for other in (layout,) if same else _layouts_of(travels, self.operands, layouts):
                operands = list(base.operands)
                for number in self.travel.operands:
                    operands[number] = Shard(self.operands[number].index(travels), other)
                found[Strategy(tuple(operands), base.results, base.divided, travelling=self.travel.operands)] = None
        return list(found)


def _layouts_of(
    wanted: DimExpr, tensors: Sequence[TensorExpr], layouts: Sequence[Sequence[Sequence[Layout]]]
) -> list[Layout]:
    """Candidate layouts of the dims that ``wanted`` makes up."""
    found: dict[Layout, None] = {}
    for tensor, dims in zip(tensors, layouts, strict=False):  # layouts go on with those of the results
        for expr, candidates in zip(tensor, dims, strict=True):
            if expr == wanted:
                found.update(dict.fromkeys(candidates))
    return list(found)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to run an op over one mesh axis.

    Attributes:
        operands: the placement that each operand must have.
        results: the placement that each result then has.
        divided: the layout whose pieces say how much of the work each rank does; None where every rank does all.
        expanded: whether the op must be run as its expansion.
        statistics: what the ranks then reduce inside of it, where a planner has asked for that.
        travelling: operands whose pieces go around the ranks, so that every rank meets all of them; see
            :class:`Travel`.
        halo: what a rank reads of its neighbours' pieces, as a share of the first operand; None where it needs none.
    """

    operands: tuple[Placement, ...]
    results: tuple[Placement | None, ...]
    divided: Layout | None = None
    expanded: bool = False
    statistics: tuple[TensorType, ...] = ()
    travelling: tuple[int, ...] = ()
    halo: float | None = None

    def largest_share(self, parts: int) -> float:
        """Fraction of the op's work that the busiest of ``parts`` ranks does."""
        if self.divided is None or self.divided.size == 0:
            return 1.0
        return self.divided.largest_piece(parts) / self.divided.size


def replicated(rule_operands: int, results: Sequence[object]) -> Strategy:
    """The strategy that every op has: all ranks do all of the work."""
    return Strategy(
        (Replicate(),) * rule_operands, tuple(None if result is None else Replicate() for result in results)
    )


class RuleBuilder:
    """Builds a :class:`FactorRule` dim by dim."""

    def __init__(self) -> None:
        self._factors: list[Factor] = []

    def factor(self, size: int, kind: FactorKind = FactorKind.PARALLEL) -> DimExpr:
        """A new factor, as the expression of a dim that it makes up alone. Size one needs no factor."""
        if size == 1:
            return ((),)
        self._factors.append(Factor(size, kind))
        return ((len(self._factors) - 1,),)

    def part(self, size: int) -> DimExpr:
        """A parallel factor that is one term of a concatenation; it is kept even where its size is one."""
        self._factors.append(Factor(size))
        return ((len(self._factors) - 1,),)

    def whole(self, size: int) -> DimExpr:
        return self.factor(size, FactorKind.WHOLE)

    def summed(self, size: int) -> DimExpr:
        return self.factor(size, FactorKind.SUM)

    def statistic(self, size: int) -> DimExpr:
        """Only for ops with an expansion."""
        return self.factor(size, FactorKind.STATISTIC)

    def neighbours(self, size: int, halo: float) -> DimExpr:
        """Only for ops that ``localize`` can give an exchange; ``halo`` as in :class:`Factor`."""
        if size == 1:
            return ((),)
        self._factors.append(Factor(size, FactorKind.NEIGHBOURS, halo))
        return ((len(self._factors) - 1,),)

    def dims(self, sizes: Sequence[int]) -> list[DimExpr]:
        """A parallel factor per dim."""
        return [self.factor(size) for size in sizes]

    def rule(
        self,
        operands: Sequence[Sequence[DimExpr]],
        results: Sequence[Sequence[DimExpr] | None],
        *,
        linear: Sequence[Sequence[int]] = (),
        addends: Sequence[int] = (),
        travel: Travel | None = None,
    ) -> FactorRule:
        return FactorRule(
            tuple(self._factors),
            tuple(tuple(tensor) for tensor in operands),
            tuple(None if tensor is None else tuple(tensor) for tensor in results),
            tuple(tuple(group) for group in linear),
            tuple(addends),
            travel,
        )


def product(*dims: DimExpr) -> DimExpr:
    """The expression of dims merged into one, major to minor. Only for dims without sums."""
    terms = [dim[0] for dim in dims if len(dim) == 1]
    if len(terms) != len(dims):
        raise ShardingError("a product of sums has no factor form")
    return (tuple(index for term in terms for index in term),)


def concatenation(*dims: DimExpr) -> DimExpr:
    """The expression of dims laid end to end."""
    return tuple(term for dim in dims for term in dim)
