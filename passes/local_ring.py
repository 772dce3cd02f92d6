"""What one rank does in a ring: pass on a piece of the keys and values, compute with it meanwhile, merge.

Of P ranks each meets P pieces, its own first. Transfers are asynchronous (see :mod:`fastvideo_ir.dialect`), and each
stands before the attention to the piece it passes on, so that both run at once. Pieces may be uneven, or empty.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.collectives import local_parts
from fastvideo_ir.graph import bind
from fastvideo_ir.mesh import Coordinates
from fastvideo_ir.ops.attention import ring_forms
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.ring import lse_dtype
from fastvideo_ir.types import TupleType


class RingExpansion:
    """Replaces one ring attention of a rank's program."""

    def __init__(self, rewriter: ir.Rewriter, node: fx.Node) -> None:
        self._rewriter = rewriter
        self._node = node
        self._mesh, self._at = rewriter.program.mesh, rewriter.program.coordinates
        arguments = bind(node)
        self._query, self._key, self._value = (arguments[name] for name in ("q", "k", "v"))
        self._mask, self._scale = arguments["mask"], arguments["scale"]
        self._axis: str = arguments["axis"]
        self._parts = self._mesh.size(self._axis)
        forms = ring_forms(node.target)
        assert forms is not None, "only rings are expanded"
        self._chunk_op = forms.chunk

    def expand(self) -> None:
        """Put transfers, attention to each piece and merges in the place of the node."""
        held = self._packed()
        pair = (self._key, self._value)
        merged: tuple[fx.Node, fx.Node] | None = None
        for step in range(self._parts):
            owner = self._owner(step)
            passed = self._pass_on(held, step) if step < self._parts - 1 else held
            if math.prod(self._shape(self._key, owner)):
                pair = pair if step == 0 else self._unpacked(held, owner)
                piece = self._attend(pair, owner)
                merged = piece if merged is None else self._merge(merged, piece)
            held = passed
        assert merged is not None, "some rank holds keys"
        self._rewriter.replace(self._node, self._finish(merged[0]))

    def _owner(self, step: int) -> Coordinates:
        """Whose piece this rank computes with at ``step``."""
        return {**self._at, self._axis: (self._at[self._axis] - step) % self._parts}

    def _packed(self) -> fx.Node:
        parts = []
        for operand in (self._key, self._value):
            count = math.prod(self._shape(operand, self._at))
            parts.append(self._insert(self._buffer(count), aten.reshape.default, operand, [count]))
        return self._insert(self._buffer(self._numel(self._at)), aten.cat.default, parts)

    def _pass_on(self, held: fx.Node, step: int) -> fx.Node:
        """Send the piece in hand to the next rank, and get that of the next step from the one before."""
        here = self._at[self._axis]
        sent, received = [0] * self._parts, [0] * self._parts
        sent[(here + 1) % self._parts] = self._numel(self._owner(step))
        received[(here - 1) % self._parts] = self._numel(self._owner(step + 1))
        kind = self._buffer(sum(received))
        return self._insert(kind, ir.dialect.exchange, held, self._axis, sent, received)

    def _unpacked(self, held: fx.Node, owner: Coordinates) -> tuple[fx.Node, fx.Node]:
        found, low = [], 0
        for operand in (self._key, self._value):
            shape = self._shape(operand, owner)
            high = low + math.prod(shape)
            flat = self._insert(self._buffer(high - low), aten.slice.Tensor, held, 0, low, high)
            found.append(self._insert(self._local(shape), aten.reshape.default, flat, list(shape)))
            low = high
        return found[0], found[1]

    def _attend(self, pair: tuple[fx.Node, fx.Node], owner: Coordinates) -> tuple[fx.Node, fx.Node]:
        shape = self._shape(self._node, self._at)
        wide = lse_dtype(ir.tensor_type(self._query).dtype)
        kinds = self._local(shape), ir.TensorType(wide, shape[:-1])
        operands = (self._query, *pair, self._mask_for(owner), self._scale, False)
        return self._pair(kinds, self._chunk_op, operands)

    def _mask_for(self, owner: Coordinates) -> fx.Node | None:
        """The columns of the mask that belong to the owner's keys."""
        if self._mask is None or ir.tensor_type(self._mask).shape[-1] == 1:
            return self._mask  # type: ignore[no-any-return]
        kind, keys = ir.tensor_type(self._mask), ir.tensor_type(self._key)
        shape = self._shape(self._mask, self._at)
        columns = []
        for low, high in local_parts([(0, shape[-1])], keys.local_ranges(2, self._mesh, owner)):
            cut = ir.TensorType(kind.dtype, (*shape[:-1], high - low))
            columns.append(self._insert(cut, aten.slice.Tensor, self._mask, len(shape) - 1, low, high))
        if len(columns) == 1:
            return columns[0]
        width = self._shape(self._key, owner)[2]
        return self._insert(ir.TensorType(kind.dtype, (*shape[:-1], width)), aten.cat.default, columns, len(shape) - 1)

    def _merge(self, merged: tuple[fx.Node, fx.Node], piece: tuple[fx.Node, fx.Node]) -> tuple[fx.Node, fx.Node]:
        out, lse = (ir.tensor_type(part) for part in piece)
        kinds = ir.TensorType(lse.dtype, out.shape), lse
        return self._pair(kinds, ir.ops.ring.merge_op, (*merged, *piece))

    def _finish(self, out: fx.Node) -> fx.Node:
        """The result in the attention's own dtype, and under its global type."""
        kind = ir.tensor_type(self._node)
        if ir.tensor_type(out).dtype != kind.dtype:
            return self._insert(kind, aten.to.dtype, out, kind.dtype)
        return self._insert(kind, aten.alias.default, out)

    def _shape(self, node: fx.Node, at: Coordinates) -> tuple[int, ...]:
        return ir.tensor_type(node).local_shape(self._mesh, at)

    def _numel(self, owner: Coordinates) -> int:
        return sum(math.prod(self._shape(operand, owner)) for operand in (self._key, self._value))

    def _local(self, shape: tuple[int, ...]) -> ir.TensorType:
        return ir.TensorType(ir.tensor_type(self._query).dtype, shape)

    def _buffer(self, numel: int) -> ir.TensorType:
        return self._local((numel,))

    def _pair(
        self, kinds: tuple[ir.TensorType, ir.TensorType], target: Callable[..., Any], operands: tuple[Any, ...]
    ) -> tuple[fx.Node, fx.Node]:
        row = self._insert(TupleType(kinds), target, *operands)
        first, second = (self._insert(kind, operator.getitem, row, number) for number, kind in enumerate(kinds))
        return first, second

    def _insert(self, kind: ir.types.ValueType, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._rewriter.insert(target, args, before=self._node, sources=(self._node,), type=kind)
