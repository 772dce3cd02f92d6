"""What a rotary embedding is, by what is computed: pairs of channels, each turned by an angle that tables give.

Models write it in many ways: halves or neighbours as pairs, pairs taken apart and put together or a rotated copy added,
real or complex numbers. All of them are linear in the two elements of a pair. So a value is followed from the result
up to the tensor whose pairs are taken apart, as a linear form in them; that the forms are a rotation's is all that is
asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, dim_index, is_getitem
from fastvideo_ir.ops.define import aten

from .norms import ADD, MULTIPLY, is_cast, is_widening

_SUBTRACT = (aten.sub.Tensor, aten.subtract.Tensor)
_NEGATE = (aten.neg.default, aten.negative.default)
_RESHAPES = (aten.reshape.default, aten.view.default, aten.unflatten.int, aten.flatten.using_ints)
_PARTS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.tensor_split.sections)
_COPIES = (aten.contiguous.default, aten.clone.default)
_MOST_NODES = 48

_WHOLE, _PART, _REAL, _IMAGINARY = "whole", "part", "real", "imaginary"


@dataclass(frozen=True)
class Table:
    """What an element of a pair is multiplied by.

    Attributes:
        node: the table.
        part: ``whole``: it has one value per pair; ``part``: one per channel, which takes its own; ``real`` or
            ``imaginary``: of a complex value per pair.
    """

    node: fx.Node
    part: str


@dataclass(frozen=True)
class Rotary:
    """``a' = a · cos − b · sin, b' = b · cos + a · sin``.

    Attributes:
        operand: whose pairs are turned.
        cos: table.
        sin: table.
        interleaved: whether pairs are neighbours.
        nodes: all calls that depend on ``operand``, up to the result.
    """

    operand: fx.Node
    cos: Table
    sin: Table
    interleaved: bool
    nodes: tuple[fx.Node, ...]


_Form: TypeAlias = Mapping[int, tuple[int, Table | None]]
"""Sign and factor of the first (0) and of the second (1) element of a pair."""


@dataclass(frozen=True)
class _Element:
    """One element of each pair; ``[…, pairs]``."""

    form: _Form


@dataclass(frozen=True)
class _Pairs:
    """Both elements of each pair.

    Attributes:
        forms: of the two.
        interleaved: whether they are neighbours; None where that is open.
        dim: the dim of size two that tells them apart; None where they lie in one dim of channels; 0 where the pair is
            one complex number.
    """

    forms: tuple[_Form, _Form]
    interleaved: bool | None
    dim: int | None = None


_Value: TypeAlias = _Element | _Pairs | None


def match_rotary(node: fx.Node) -> Rotary | None:
    """The rotary embedding whose result ``node`` is."""
    if node.target not in (*ADD, *_RESHAPES, aten.cat.default):
        return None
    for operand in _split_operands(node):
        forms = _Forms(operand)
        found = forms.of(node)
        if isinstance(found, _Pairs) and found.dim is None and found.interleaved is not None:
            tables = _rotation(*found.forms)
            if tables is not None and forms.consistent:
                nodes = list(forms.dependent)
                while is_widening(operand) and set(operand.users) <= set(nodes):
                    nodes.append(operand)
                    operand = _first(operand)
                return Rotary(operand, *tables, found.interleaved, tuple(nodes))
    return None


def _rotation(first: _Form, second: _Form) -> tuple[Table, Table] | None:
    """The tables of cosines and sines, where the forms are ``a c − b s`` and ``b c + a s``."""
    if not all(form.keys() == {0, 1} for form in (first, second)):
        return None
    (cos, minus_sin), (sin, other_cos) = (first[0], first[1]), (second[0], second[1])
    signs = (cos[0], minus_sin[0], sin[0], other_cos[0])
    tables = (cos[1], minus_sin[1])
    if signs != (1, -1, 1, 1) or tables != (other_cos[1], sin[1]) or tables[0] is None or tables[1] is None:
        return None
    return tables[0], tables[1]


def _split_operands(node: fx.Node) -> list[fx.Node]:
    """Tensors above ``node`` whose channels are taken apart, as far as a rotation may reach."""
    found: dict[fx.Node, None] = {}
    seen: dict[fx.Node, None] = {node: None}
    queue = [node]
    shape = ir.tensor_type(node).shape
    while queue and len(seen) < _MOST_NODES:
        current = queue.pop(0)
        if not _is_followed(current):
            continue
        for operand in current.all_input_nodes:
            takes_apart = not is_getitem(current) and current.target not in (*MULTIPLY, *ADD, *_SUBTRACT)
            kind = ir.value_type(operand)
            if takes_apart and isinstance(kind, ir.TensorType) and kind.shape == shape:
                found[operand] = None
            if operand not in seen:
                seen[operand] = None
                queue.append(operand)
    return list(found)


def _is_followed(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    known = (*MULTIPLY, *ADD, *_SUBTRACT, *_NEGATE, *_RESHAPES, *_PARTS, aten.unbind.int, aten.slice.Tensor)
    others = (aten.select.int, aten.stack.default, aten.cat.default)
    views = (aten.view_as_complex.default, aten.view_as_real.default)
    return is_getitem(node) or is_cast(node) or node.target in (*known, *others, *views, *_COPIES)


class _Forms:
    """Linear forms in the pairs of ``operand``, by node; None for what is none, or does not depend on it."""

    def __init__(self, operand: fx.Node) -> None:
        self._operand = operand
        self._channels = ir.tensor_type(operand).shape[-1]
        self._known: dict[fx.Node, _Value] = {operand: _Pairs(({0: (1, None)}, {1: (1, None)}), None)}
        self._layouts: set[bool] = set()

    @property
    def dependent(self) -> tuple[fx.Node, ...]:
        """The calls that were followed and depend on the operand."""
        return tuple(node for node, value in self._known.items() if value is not None and node is not self._operand)

    @property
    def consistent(self) -> bool:
        """Whether all that took pairs apart or put them together meant the same pairs."""
        return len(self._layouts) == 1

    def of(self, node: fx.Node) -> _Value:
        if node not in self._known:
            self._known[node] = None  # while it is looked at
            if len(self._known) < _MOST_NODES and _is_followed(node):
                self._known[node] = self._follow(node)
        return self._known[node]

    def _follow(self, node: fx.Node) -> _Value:
        target = node.target
        if is_getitem(node):
            return self._taken(node)
        if is_cast(node) or target in _COPIES:
            return self.of(_first(node))
        if target in _NEGATE:
            return _mapped(self.of(_first(node)), lambda form: {e: (-sign, t) for e, (sign, t) in form.items()})
        if target in MULTIPLY:
            return self._product(node)
        if target in ADD or target in _SUBTRACT:
            return self._sum(node, 1 if target in ADD else -1)
        if target in _RESHAPES:
            return self._reshaped(node)
        if target in (aten.slice.Tensor, aten.select.int):
            return self._cut(node)
        if target in (aten.stack.default, aten.cat.default):
            return self._joined(node)
        if target is aten.view_as_complex.default:
            pairs = self.of(_first(node))
            rank = len(ir.tensor_type(node).shape)
            return self._as(pairs, dim=0) if isinstance(pairs, _Pairs) and pairs.dim == rank else None
        if target is aten.view_as_real.default:
            pairs = self.of(_first(node))
            rank = len(ir.tensor_type(node).shape)
            return self._as(pairs, dim=rank - 1) if isinstance(pairs, _Pairs) and pairs.dim == 0 else None
        return None

    def _as(self, pairs: _Pairs, dim: int | None) -> _Pairs:
        return _Pairs(pairs.forms, pairs.interleaved, dim)

    def _split(self, pairs: _Value, interleaved: bool, dim: int | None) -> _Pairs | None:
        """``pairs`` seen with their elements apart, or together again."""
        if not isinstance(pairs, _Pairs):
            return None
        self._layouts.add(interleaved)
        return _Pairs(pairs.forms, interleaved, dim)

    def _reshaped(self, node: fx.Node) -> _Value:
        pairs = self.of(_first(node))
        if not isinstance(pairs, _Pairs) or pairs.dim == 0:
            return None
        old, new = ir.tensor_type(_first(node)).shape, ir.tensor_type(node).shape
        lead, half = old[:-1], self._channels // 2
        if pairs.dim is None and old[-1] == self._channels:
            if new == (*lead, half, 2):
                return self._split(pairs, True, len(new) - 1)
            if new == (*lead, 2, half):
                return self._split(pairs, False, len(new) - 2)
        if pairs.dim is not None and new == (*old[:-2], self._channels):
            return self._split(pairs, pairs.dim == len(old) - 1, None)
        return None

    def _taken(self, node: fx.Node) -> _Value:
        """An element of ``unbind`` or of a split into halves."""
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        if source.target is not aten.unbind.int and source.target not in _PARTS:
            return None
        operand = _first(source)
        pairs = self.of(operand)
        if not isinstance(pairs, _Pairs) or pairs.dim == 0 or index > 1:
            return None
        rank = len(ir.tensor_type(operand).shape)
        dim = dim_index(bind(source)["dim"], rank)
        if source.target is aten.unbind.int:
            fits = pairs.dim == dim
        else:
            halves = ir.tensor_type(node).shape[-1] * 2 == self._channels
            fits = pairs.dim is None and dim == rank - 1 and halves
            self._layouts.add(False)
        self._known[source] = pairs if fits else None
        return _Element(pairs.forms[index]) if fits else None

    def _cut(self, node: fx.Node) -> _Value:
        """Every other channel, one half of them, or one of two."""
        operand = _first(node)
        pairs = self.of(operand)
        if not isinstance(pairs, _Pairs) or pairs.dim == 0:
            return None
        arguments, rank = bind(node), len(ir.tensor_type(operand).shape)
        dim = dim_index(arguments["dim"], rank)
        if node.target is aten.select.int:
            return _Element(pairs.forms[arguments["index"] % 2]) if pairs.dim == dim else None
        if pairs.dim is not None or dim != rank - 1:
            return None
        picked = range(self._channels)[slice(arguments["start"], arguments["end"], arguments["step"])]
        half = self._channels // 2
        for number in (0, 1):
            if picked == range(self._channels)[number::2]:
                self._layouts.add(True)
                return _Element(pairs.forms[number])
            if picked == range(number * half, (number + 1) * half):
                self._layouts.add(False)
                return _Element(pairs.forms[number])
        return None

    def _joined(self, node: fx.Node) -> _Value:
        """Two elements as pairs again: stacked, or halves laid end to end."""
        operands = node.args[0]
        assert isinstance(operands, (list, tuple))
        parts = [self.of(operand) for operand in operands if isinstance(operand, fx.Node)]
        if len(parts) != 2 or not all(isinstance(part, _Element) for part in parts):
            return None
        forms = tuple(part.form for part in parts if isinstance(part, _Element))
        rank = len(ir.tensor_type(node).shape)
        dim = dim_index(bind(node)["dim"], rank)
        together = _Pairs((forms[0], forms[1]), None)
        if node.target is aten.cat.default:
            return self._split(together, False, None) if dim == rank - 1 else None
        return self._split(together, dim == rank - 1, dim) if dim >= rank - 2 else None

    def _product(self, node: fx.Node) -> _Value:
        """With a table, which does not depend on the pairs."""
        if node.kwargs or not all(isinstance(operand, fx.Node) for operand in node.args):
            return None
        left, right = node.args
        for value, table in ((left, right), (right, left)):
            assert isinstance(value, fx.Node) and isinstance(table, fx.Node)
            followed = self.of(value)
            if followed is None or self.of(table) is not None:
                continue
            if ir.tensor_type(node).shape != ir.tensor_type(value).shape:
                return None
            return self._times(followed, table)
        return None

    def _times(self, value: _Element | _Pairs, table: fx.Node) -> _Value:
        size = ir.tensor_type(table).shape[-1:]
        if isinstance(value, _Pairs) and value.dim == 0:
            return _complex_product(value, table)
        wanted = self._channels if isinstance(value, _Pairs) else self._channels // 2
        if size != (wanted,) or (isinstance(value, _Pairs) and value.dim is not None):
            return None
        part = _PART if isinstance(value, _Pairs) else _WHOLE
        if any(factor is not None for form in _forms(value) for _, factor in form.values()):
            return None
        return _mapped(value, lambda form: {e: (sign, Table(table, part)) for e, (sign, _) in form.items()})

    def _sum(self, node: fx.Node, sign: int) -> _Value:
        if node.kwargs or len(node.args) != 2 or not all(isinstance(operand, fx.Node) for operand in node.args):
            return None
        left, right = (self.of(operand) for operand in node.args if isinstance(operand, fx.Node))
        if isinstance(left, _Element) and isinstance(right, _Element):
            total = _total(left.form, right.form, sign)
            return None if total is None else _Element(total)
        if isinstance(left, _Pairs) and isinstance(right, _Pairs) and left.dim == right.dim != 0:
            totals = [_total(a, b, sign) for a, b in zip(left.forms, right.forms, strict=True)]
            if totals[0] is not None and totals[1] is not None:
                layout = left.interleaved if left.interleaved is not None else right.interleaved
                return _Pairs((totals[0], totals[1]), layout, left.dim)
        return None


def _complex_product(value: _Pairs, table: fx.Node) -> _Value:
    """``(a + b i)(c + s i)``; plain ``a`` and ``b`` alone."""
    if [dict(form) for form in value.forms] != [{0: (1, None)}, {1: (1, None)}]:
        return None
    if not ir.tensor_type(table).dtype.is_complex:
        return None
    real, imaginary = Table(table, _REAL), Table(table, _IMAGINARY)
    return _Pairs(({0: (1, real), 1: (-1, imaginary)}, {0: (1, imaginary), 1: (1, real)}), value.interleaved, 0)


def _total(left: _Form, right: _Form, sign: int) -> _Form | None:
    """The sum of two forms that share no element."""
    if left.keys() & right.keys():
        return None
    return {**left, **{element: (sign * own, table) for element, (own, table) in right.items()}}


def _forms(value: _Element | _Pairs) -> tuple[_Form, ...]:
    return (value.form,) if isinstance(value, _Element) else value.forms


def _mapped(value: _Value, function: Any) -> _Value:
    if isinstance(value, _Element):
        return _Element(function(value.form))
    if isinstance(value, _Pairs):
        return _Pairs((function(value.forms[0]), function(value.forms[1])), value.interleaved, value.dim)
    return None


def _first(node: fx.Node) -> fx.Node:
    operand = node.args[0]
    assert isinstance(operand, fx.Node)
    return operand
