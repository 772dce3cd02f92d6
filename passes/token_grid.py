"""``token-grid``: which tokens of an attention are a grid of time × height × width, found from the graph alone.

The dims of every value are written as sums of products of *atoms*: a video latent ``[b, c, t, h, w]`` has one atom per
dim; a patch embedding keeps the major part of an atom (the patch) and contracts the minor one; ``flatten`` multiplies
atoms, ``cat`` with text tokens adds terms, ``split`` takes them apart. Each op's factor rule says how its dims depend
on those of its operands, so the atoms follow from the rules and no op is known by name, but for those whose windows
overlap (see :data:`WINDOWED`). At an attention the grid is the term that is a product of dims of one input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import DimExpr, Factor, FactorKind, FactorRule, Term
from fastvideo_ir.graph import bind, is_getitem, result_types, tensor_operands

from ..backends.attention import No, TokenGrid
from .token_rules import token_rule


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of a dim.

    Attributes:
        size: its number of positions.
        input: name of the program input whose dim it is, or a part of; empty where it is none.
        dim: that dim.
    """

    size: int
    input: str = ""
    dim: int = -1

    def resized(self, size: int) -> Atom:
        return Atom(size, self.input, self.dim)


Product: TypeAlias = tuple[Atom, ...]
"""Atoms, major to minor, none of size one; empty for size one."""
Dim: TypeAlias = tuple[Product, ...]
"""A sum of products, in storage order."""
Shape: TypeAlias = tuple[Dim, ...]

WINDOWED = ("conv", "pad", "pool", "upsample", "group_norm")
"""Ops, by a part of their ATen name, whose results have positions where the operands have them, if not one by one."""


class TokenGrids:
    """The token grids of a program's attentions."""

    def __init__(self, program: ir.Program) -> None:
        self._dims = describe(program)

    def at(self, node: fx.Node, given: tuple[int, int, int] | None = None) -> TokenGrid | No:
        """The grid among the tokens of an attention node, or why there is none.

        Args:
            node: takes ``q``, ``k`` and ``v`` of ``[batch, heads, tokens, head_dim]``.
            given: tokens in time, height and width, by the user's word, where the graph does not show the grid.
        """
        arguments = bind(node)
        query, key = (self._dims[arguments[name]][0] for name in ("q", "k"))
        assert query is not None and key is not None
        if arguments["causal"]:
            return No("it is causal")
        if _tokens(query[2]) != _tokens(key[2]):
            return No("its keys are not the tokens of its queries")
        shown = _shown_grid(query)
        if given is None:
            return shown
        if isinstance(shown, TokenGrid) and shown.grid != given:
            return No(f"the given grid {given} is not the one that the graph shows, {shown.grid}")
        return _given_grid(given, query[2])


def _tokens(dim: Dim) -> list[Product | int]:
    """What tells the tokens of one attention operand from those of another."""
    return [term if _input_of(term) else _size(term) for term in dim]


def _shown_grid(query: Shape) -> TokenGrid | No:
    found = [(index, term) for index, term in enumerate(query[2]) if _input_of(term)]
    if not found:
        return No("its tokens are not dims of an input: they come packed, or were regrouped beyond recognition")
    index, term = max(found, key=lambda item: _size(item[1]))
    source = term[0].input
    split = [a for dim in query[:2] for part in dim for a in part if a.input == source and a.dim > 0]
    if split:
        return No(f"it is an attention within parts of the grid: dim {split[0].dim} of input {source!r} is its batch")
    places = [atom.dim for atom in term]
    if len(term) > 3 or sorted(set(places)) != places:
        return No(f"its tokens are dims {places} of input {source!r}; a grid has time, height and width, in this order")
    grid = (1,) * (3 - len(term)) + tuple(atom.size for atom in term)
    start = sum(_size(part) for part in query[2][:index])
    return TokenGrid((grid[0], grid[1], grid[2]), start, sum(_size(part) for part in query[2]))


def _given_grid(grid: tuple[int, int, int], tokens: Dim) -> TokenGrid | No:
    sizes = [_size(term) for term in tokens]
    fitting = [number for number, size in enumerate(sizes) if size == math.prod(grid)]
    if len(fitting) != 1:
        return No(
            f"{len(fitting)} of its stretches of tokens {sizes} have the {math.prod(grid)} of the given grid {grid}"
        )
    return TokenGrid(grid, sum(sizes[: fitting[0]]), sum(sizes))


def describe(program: ir.Program) -> dict[fx.Node, tuple[Shape | None, ...]]:
    """What the dims of every value are made of; one shape per result of a node."""
    dims: dict[fx.Node, tuple[Shape | None, ...]] = {}
    inputs = set(program.input_nodes)
    for node in program.nodes:
        if node.op == "output":
            continue
        if node in inputs:
            shape = ir.tensor_type(node).shape
            dims[node] = (tuple(_atom(Atom(size, node.name, dim)) for dim, size in enumerate(shape)),)
        elif is_getitem(node):
            producer, index = node.args
            assert isinstance(producer, fx.Node) and isinstance(index, int)
            dims[node] = (dims[producer][index],)
        else:
            dims[node] = _results(node, dims)
    return dims


def _results(node: fx.Node, dims: dict[fx.Node, tuple[Shape | None, ...]]) -> tuple[Shape | None, ...]:
    kinds = result_types(node)
    unknown = tuple(None if kind is None else tuple(_atom(Atom(size)) for size in kind.shape) for kind in kinds)
    op = ir.ops.of(node) if node.op == "call_function" else None
    operands = [dims[operand][0] for operand in tensor_operands(node)]
    rule = token_rule(node) if None not in operands else None
    if op is None or rule is None:
        return unknown
    values: dict[int, Dim] = {}
    for expressions, shape in zip(rule.operands, operands, strict=True):
        assert shape is not None
        for expr, dim in zip(expressions, shape, strict=True):
            _read(rule, expr, dim, values)
    results: list[Shape | None] = [
        None if expressions is None else tuple(_write(rule, expr, values) for expr in expressions)
        for expressions in rule.results
    ]
    first, source = results[0], operands[0] if operands else None
    if first is not None and source is not None and any(part in op.name for part in WINDOWED):
        results[0] = _windowed(rule, source, first)
    return tuple(results)


def _read(rule: FactorRule, expr: DimExpr, dim: Dim, values: dict[int, Dim]) -> None:
    """Let factors have the atoms of the operand dim that ``expr`` stands for. Atoms of an input outrank others."""
    parts = _cut(dim, [rule.size(term) for term in expr]) if len(expr) > 1 else [dim]
    for term, part in zip(expr, parts, strict=True) if parts is not None else ():
        for index, value in _by_factor(rule, term, part):
            if rule.factors[index].kind is FactorKind.WHOLE:
                continue
            known = values.get(index)
            if known is None or (not _has_input(known) and _has_input(value)):
                values[index] = value


def _by_factor(rule: FactorRule, term: Term, part: Dim) -> list[tuple[int, Dim]]:
    if len(term) == 1:
        return [(term[0], part)]
    factors = [(index, rule.factors[index]) for index in term if rule.factors[index].size > 1]
    pieces = _divide(part[0], [factor for _, factor in factors]) if len(part) == 1 else None
    return [(index, (piece,)) for (index, _), piece in zip(factors, pieces, strict=True)] if pieces is not None else []


def _divide(product: Product, factors: Sequence[Factor]) -> list[Product] | None:
    """A product as several of the factors' sizes; the major part of an atom that is split keeps its name."""
    left = list(product)
    pieces: list[Product] = []
    for factor in factors:
        need, piece = factor.size, []
        while need > 1:
            if not left:
                return None
            atom = left.pop(0)
            if need % atom.size == 0:
                piece.append(atom)
                need //= atom.size
            elif atom.size % need == 0:
                piece.append(atom.resized(need))
                left.insert(0, Atom(atom.size // need))
                need = 1
            else:
                return None
        pieces.append(tuple(piece))
    return pieces


def _cut(dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
    """A sum as several of ``sizes``. A product may be cut along its major atom, between whole slices."""
    left = list(dim)
    parts: list[Dim] = []
    for size in sizes:
        need, part = size, []
        while need > 0:
            if not left:
                return None
            term = left.pop(0)
            whole = _size(term)
            if whole <= need:
                part.append(term)
                need -= whole
                continue
            inner = _size(term[1:])
            if need % inner:
                part, left = [(Atom(need),)] if need > 1 else [()], [(Atom(whole - need),), *left]
            else:
                head, tail = term[0].resized(need // inner), term[0].resized(whole // inner - need // inner)
                part.append(_normal((head, *term[1:])))
                left.insert(0, _normal((tail, *term[1:])))
            need = 0
        parts.append(_joined(part))
    return parts


def _write(rule: FactorRule, expr: DimExpr, values: dict[int, Dim]) -> Dim:
    """The atoms of the result dim that ``expr`` stands for."""
    terms: list[Product] = []
    for term in expr:
        parts = [values.get(index) or ((Atom(rule.factors[index].size),),) for index in term]
        parts = [part for part in parts if part != ((),)]
        if len(parts) == 1:
            terms += parts[0]
        elif all(len(part) == 1 for part in parts):
            terms.append(_normal(tuple(atom for part in parts for atom in part[0])))
        else:
            terms.append((Atom(rule.size(term)),))
    return _joined(terms)


def _windowed(rule: FactorRule, source: Shape, result: Shape) -> Shape:
    """``result``, with the names of the operand's dims where an op looks at several positions to make one."""
    if len(source) != len(result):
        return result
    out = list(result)
    for number, (dim, made) in enumerate(zip(source, result, strict=True)):
        lone = len(dim) == 1 and len(dim[0]) == 1 and len(made) == 1 and len(made[0]) == 1
        if number > 1 and lone and not made[0][0].input:
            out[number] = _atom(dim[0][0].resized(made[0][0].size))
    return tuple(out)


def _joined(terms: Sequence[Product]) -> Dim:
    """A sum without needless cuts: neighbours that continue each other along their major atom are one term."""
    result: list[Product] = []
    for term in terms:
        longer = _continued(result[-1], term) if result else None
        if longer is not None:
            result[-1] = longer
        else:
            result.append(term)
    return tuple(result)


def _continued(first: Product, second: Product) -> Product | None:
    """Two terms as one, if they agree but for the size of the major atom; that atom is absent where its size is one."""
    if first and second and first[1:] == second[1:] and first[0].resized(0) == second[0].resized(0):
        return (first[0].resized(first[0].size + second[0].size), *first[1:])
    for one, several in ((first, second), (second, first)):
        if _input_of(one) and one == several[1:] and one[0].input == several[0].input:
            return (several[0].resized(several[0].size + 1), *one)
    return None


def _normal(product: Product) -> Product:
    return tuple(atom for atom in product if atom.size != 1)


def _atom(atom: Atom) -> Dim:
    return (_normal((atom,)),)


def _size(product: Product) -> int:
    return math.prod(atom.size for atom in product)


def _input_of(term: Product) -> bool:
    """Whether the term is made of dims of one input, and of two at least."""
    return len(term) > 1 and bool(term[0].input) and len({atom.input for atom in term}) == 1


def _has_input(dim: Dim) -> bool:
    return any(atom.input for term in dim for atom in term)
