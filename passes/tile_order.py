"""``tile-order``: tokens are brought into tile order once, where they are made, and back once, where they are read.

Every ``fv_attn.sliding_tile_attn`` reads its tokens in tile order. The pass puts all values that hold these tokens into
that order: from the attentions backward to where the tokens come into being (behind the patch embedding), and
forward to where they are taken apart again (before the unpatchify). A permutation passes an op where the tokens are a
parallel factor of its rule (:mod:`fastvideo_ir.factors`): each of them is computed for itself, so their order does not
matter, if all operands that have them (position tables, masks, per-token modulation) are in the same order. Nor does
an attention mind in which order its keys are. Where the permutation does not pass, an ``index_select`` stands: the
values go into tile order behind the op, or back before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import FactorKind, FactorRule, TensorExpr
from fastvideo_ir.graph import bind, is_getitem, map_operands, tensor_operands
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.restricted_attention import awaits_backend

from ..backends import attention
from ..backends.attention.sliding_tile import sliding_tile_op, tile_order_op
from .token_rules import token_rule


@dataclass(frozen=True)
class Order:
    """A permutation of ``grid`` tokens by ``tile``."""

    grid: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)


@dataclass(frozen=True)
class Place:
    """Where a value has the tokens: in ``dim``, from position ``start`` on."""

    order: Order
    dim: int
    start: int


@dataclass(frozen=True)
class Spot:
    """Where a factor of an op has the tokens."""

    order: Order
    factor: int
    start: int


class TileOrder(ir.Pass):
    """Two index ops for the tokens in all, and one for each table of positions; none in the layers. Exact."""

    name = "tile-order"
    needs = ir.Stage.CANONICAL

    def run(self, program: ir.Program) -> None:
        sites = [node for node in program.nodes if node.target is sliding_tile_op and not bind(node)["tiled"]]
        if sites:
            _Reordering(program, self.name, _region(sites)).run()


def _region(sites: list[fx.Node]) -> dict[fx.Node, Place]:
    """The values that are to be in tile order: those of the attentions, and all that the permutation can pass on to."""
    places: dict[fx.Node, Place] = {}
    queue: deque[fx.Node] = deque()

    def add(value: fx.Node, place: Place) -> None:
        if value not in places:
            places[value] = place
            queue.append(value)

    for node in sites:
        for value, place in _site_places(node):
            add(value, place)
    while queue:
        value = queue.popleft()
        producers = value.all_input_nodes if is_getitem(value) else [value]
        for node in (*producers, *value.users):
            for other, place in _passed_on(node, value, places):
                add(other, place)
    return places


def _site_places(node: fx.Node) -> Iterator[tuple[fx.Node, Place]]:
    """The places that a sliding tile attention wants: of its operands, and of its result."""
    arguments = bind(node)
    order = Order(tuple(arguments["grid"]), tuple(arguments["tile"]))
    for name, dim in (("q", 2), ("k", 2), ("v", 2), ("mask", 3)):
        if arguments[name] is not None:
            yield arguments[name], Place(order, dim, arguments["start"])
    yield node, Place(order, 2, arguments["start"])


def _passed_on(node: fx.Node, value: fx.Node, places: Mapping[fx.Node, Place]) -> list[tuple[fx.Node, Place]]:
    """The places that all values of ``node`` have which run over the factor that holds the tokens of ``value``.

    Empty where the permutation does not pass ``node``: the factor is no parallel one, is merged with others or occurs
    twice in a value, or a value has tokens elsewhere already.
    """
    ruled = _ruled(node)
    if ruled is None:
        return []
    rule, values = ruled
    spot = next((_spot(rule, expr, places[value]) for other, expr in values if other is value), None)
    if spot is None or not _may_reorder(node, rule, spot.factor):
        return []
    found: list[tuple[fx.Node, Place]] = []
    for other, expr in values:
        if not any(spot.factor in term for dim in expr for term in dim):
            continue
        place = _place(rule, expr, spot)
        if place is None or places.get(other, place) != place or ((other, place) not in found and other in dict(found)):
            return []
        found.append((other, place))
    return found


def _ruled(node: fx.Node) -> tuple[FactorRule, list[tuple[fx.Node, TensorExpr]]] | None:
    """The factor rule of a node, and the expressions of its operands and results, by the node that holds each."""
    if node.op != "call_function" or node.target is sliding_tile_op or is_getitem(node):
        return None
    rule = token_rule(node)
    if rule is None:
        return None
    values = [*zip(tensor_operands(node), rule.operands, strict=True)]
    if isinstance(ir.value_type(node), ir.TupleType):
        held = [(user, rule.results[int(str(user.args[1]))]) for user in node.users]
    else:
        held = [(node, rule.results[0])]
    return rule, values + [(holder, expr) for holder, expr in held if expr is not None]


def _may_reorder(node: fx.Node, rule: FactorRule, factor: int) -> bool:
    """Whether the iterations of a factor may run in any order: each for itself, or the keys of an attention."""
    if rule.factors[factor].kind is FactorKind.PARALLEL:
        return True
    is_attention = awaits_backend(node) or attention.backend_of(node.target) is not None
    return is_attention and not bind(node)["causal"] and rule.factors[factor].kind is FactorKind.WHOLE


def _spot(rule: FactorRule, expr: TensorExpr, place: Place) -> Spot | None:
    """The factor that holds the tokens at ``place``; None where it is merged with others, or the tokens are cut."""
    start = place.start
    for term in expr[place.dim]:
        size = rule.size(term)
        if start >= size:
            start -= size
            continue
        factors = [index for index in term if rule.factors[index].size > 1]
        return (
            Spot(place.order, factors[0], start) if len(factors) == 1 and start + place.order.tokens <= size else None
        )
    return None


def _place(rule: FactorRule, expr: TensorExpr, spot: Spot) -> Place | None:
    """Where a value has the tokens of ``spot``; None where in two dims, or merged with others."""
    found: list[Place] = []
    for dim, terms in enumerate(expr):
        before = 0
        for term in terms:
            if spot.factor in term:
                if sum(rule.factors[index].size > 1 for index in term) > 1:
                    return None
                found.append(Place(spot.order, dim, before + spot.start))
            before += rule.size(term)
    return found[0] if len(found) == 1 else None


class _Reordering:
    """Rewrites a program, node by node, so that the values of the region come in tile order."""

    def __init__(self, program: ir.Program, by: str, places: dict[fx.Node, Place]) -> None:
        self._program = program
        self._rewriter = ir.Rewriter(program, by)
        self._places = places
        self._tiled: set[fx.Node] = set()
        self._other: dict[tuple[fx.Node, Place], fx.Node] = {}
        self._orders: dict[tuple[Place, int, bool], fx.Node] = {}

    def run(self) -> None:
        nodes = list(self._program.nodes)
        self._first = next(node for node in nodes if node.op != "placeholder")
        for node in nodes:
            if node.op == "output":
                outputs = [self._natural(v) if isinstance(v, fx.Node) else v for v in self._program.output_values]
                self._rewriter.set_outputs(outputs)
            elif node.target is sliding_tile_op and not bind(node)["tiled"]:
                self._rewrite_site(node)
            elif node.op == "call_function" and not is_getitem(node):
                self._rewrite(node)

    def _rewrite_site(self, node: fx.Node) -> None:
        wanted = dict(_site_places(node))
        operands = [self._in_order(v, wanted[v]) if v in wanted else v for v in tensor_operands(node)]
        args, kwargs = map_operands(node, operands)
        self._rewriter.set_arguments(node, (*args[:-1], True), kwargs)
        self._tiled.add(node)

    def _rewrite(self, node: fx.Node) -> None:
        operands = tensor_operands(node)
        values = [value for value, _ in (_ruled(node) or (None, []))[1] if value in self._places]
        carried = {value for value in values if _passed_on(node, value, self._places)}
        new = [self._in_order(v, self._places[v]) if v in carried else self._natural(v) for v in operands]
        if new != operands:
            self._rewriter.set_arguments(node, *map_operands(node, new))
        self._tiled |= carried - set(operands)

    def _natural(self, value: fx.Node) -> fx.Node:
        return self._reordered(value, self._places[value], inverse=True) if value in self._tiled else value

    def _in_order(self, value: fx.Node, place: Place) -> fx.Node:
        if value in self._tiled and self._places[value] == place:
            return value
        return self._reordered(self._natural(value), place, inverse=False)

    def _reordered(self, value: fx.Node, place: Place, inverse: bool) -> fx.Node:
        """``value`` in another order; one index op for all who need it."""
        if (value, place) not in self._other:
            length = ir.tensor_type(value).shape[place.dim]
            order = self._order(place, length, inverse)
            after = None if value.op == "placeholder" else value
            self._other[value, place] = self._rewriter.insert(
                aten.index_select.default,
                (value, place.dim, order),
                before=None if after else self._first,
                after=after,
                sources=(value,),
            )
        return self._other[value, place]

    def _order(self, place: Place, length: int, inverse: bool) -> fx.Node:
        key = (Place(place.order, 0, place.start), length, inverse)
        if key not in self._orders:
            order = place.order
            arguments = (list(order.grid), list(order.tile), place.start, length, inverse, ir.DEVICE)
            self._orders[key] = self._rewriter.insert(tile_order_op, arguments, before=self._first)
        return self._orders[key]
