"""What one rank does in a convolution over a sharded dim: fetch the edges that its windows read, then convolve.

Which rows a rank reads follows from the range of the result that it holds. So uneven pieces, pieces that are shorter
than a window (whose edges lie several ranks away) and empty ones are no cases of their own. Padding stands at the true
borders alone: zeros, or the border repeated. All edges of one convolution travel in a single exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.layout import Range
from fastvideo_ir.mesh import Coordinates
from fastvideo_ir.ops import RankView
from fastvideo_ir.ops.conv import Convolution, conv_replicate, localize_conv
from fastvideo_ir.ops.define import aten


class HaloExpansion:
    """Replaces one ``fv.conv_halo`` of a rank's program."""

    def __init__(self, rewriter: ir.Rewriter, node: fx.Node, view: RankView) -> None:
        self._rewriter = rewriter
        self._node = node
        self._view = view
        self._arguments = arguments = bind(node)
        self._source: fx.Node = arguments["input"]
        self._dim: int = arguments["dim"]
        self._axis: str = arguments["axis"]
        self._conv = Convolution.of(node, ir.tensor_type(arguments["weight"]).shape[2:])
        self._size = ir.tensor_type(self._source).shape[self._dim]
        self._peers = [{**view.at, self._axis: index} for index in range(view.mesh.size(self._axis))]

    def expand(self) -> None:
        """Put the exchange and a convolution without padding in ``dim`` in the place of the node."""
        a = self._arguments
        padding = list(a["padding"])
        padding[self._dim - 2] = 0
        operand = self._extended(self._exchange())
        operands = (operand, a["weight"], a["bias"], a["stride"], padding, a["dilation"])
        rest = (a["groups"],) if a["replicate"] else (False, [0] * len(padding), a["groups"])
        self._rewriter.set_target(self._node, conv_replicate if a["replicate"] else aten.convolution.default)
        self._rewriter.set_arguments(self._node, (*operands, *rest), {})
        target, args, kwargs = localize_conv(self._node, self._view)
        self._rewriter.set_target(self._node, target)
        self._rewriter.set_arguments(self._node, args, kwargs)

    def _window(self, at: Coordinates) -> Range:
        """What the rank at ``at`` reads of the padded dim; negative, or beyond its size, where that is padding."""
        ((low, high),) = ir.tensor_type(self._node).local_ranges(self._dim, self._view.mesh, at)
        if low == high:
            return 0, 0
        dim = self._dim - 2
        stride, padding = self._conv.stride[dim], self._conv.padding[dim]
        assert padding is not None, "the op counts its padding"
        return low * stride - padding, (high - 1) * stride - padding + self._conv.reach(dim)

    def _held(self, at: Coordinates) -> Range:
        ((low, high),) = ir.tensor_type(self._source).local_ranges(self._dim, self._view.mesh, at)
        return low, high

    def _fetched(self, sender: Coordinates, receiver: Coordinates) -> Range:
        """Global range of what ``receiver`` reads of the piece of ``sender``; both ends equal where nothing."""
        (held, end), (start, stop) = self._held(sender), self._window(receiver)
        low = min(max(held, start), end)
        return low, max(low, min(end, stop))

    def _exchange(self) -> fx.Node:
        """The edges of all peers, end to end."""
        here = self._view.at
        sent, received, parts = [], [], []
        for peer in self._peers:
            own = peer == here
            give, take = (0, 0) if own else self._fetched(here, peer), (0, 0) if own else self._fetched(peer, here)
            sent.append(self._numel(give))
            received.append(self._numel(take))
            if sent[-1]:
                parts.append(self._flat(self._rows(give)))
        if not parts:
            parts.append(self._flat(self._rows((self._held(here)[0],) * 2)))
        buffer = parts[0] if len(parts) == 1 else self._insert([sum(sent)], aten.cat.default, parts)
        return self._insert([sum(received)], ir.dialect.exchange, buffer, self._axis, sent, received)

    def _extended(self, received: fx.Node) -> fx.Node:
        """The piece, between the edges of its neighbours and what lies beyond the borders."""
        start, stop = self._window(self._view.at)
        if start == stop:
            return self._source
        parts: list[fx.Node] = []
        offset = 0
        for peer in self._peers:
            rows = self._fetched(peer, self._view.at)
            if peer == self._view.at:
                parts += [self._rows(rows)] if rows[0] < rows[1] else []
            elif count := self._numel(rows):
                flat = self._insert([count], aten.slice.Tensor, received, 0, offset, offset + count)
                shape = self._shape(rows[1] - rows[0])
                parts.append(self._insert(shape, aten.reshape.default, flat, shape))
                offset += count
        before, after = max(min(stop, 0) - start, 0), max(stop - max(start, self._size), 0)
        first, last = self._beyond(before, parts, 0), self._beyond(after, parts, -1)
        parts = [*first, *parts, *last]
        if len(parts) == 1:
            return parts[0]
        return self._insert(self._shape(stop - start), aten.cat.default, parts, self._dim)

    def _rows(self, rows: Range) -> fx.Node:
        """A global range of this rank's piece."""
        low, high = self._held(self._view.at)
        if rows == (low, high):
            return self._source
        shape = self._shape(rows[1] - rows[0])
        return self._insert(shape, aten.slice.Tensor, self._source, self._dim, rows[0] - low, rows[1] - low)

    def _beyond(self, count: int, parts: Sequence[fx.Node], side: int) -> list[fx.Node]:
        """``count`` rows of padding next to the first or the last of ``parts``."""
        shape = self._shape(count)
        if not count:
            return []
        if not self._arguments["replicate"]:
            return [self._insert(shape, aten.new_zeros.default, self._source, shape)]
        border = parts[side]  # a window that keeps the size reads at least one row inside
        row = 0 if side == 0 else self._view.shape(border)[self._dim] - 1
        edge = self._insert(self._shape(1), aten.slice.Tensor, border, self._dim, row, row + 1)
        return [self._insert(shape, aten.expand.default, edge, shape)]

    def _flat(self, value: fx.Node) -> fx.Node:
        count = math.prod(self._view.shape(value))
        return self._insert([count], aten.reshape.default, value, [count])

    def _shape(self, rows: int) -> list[int]:
        shape = list(self._view.shape(self._source))
        shape[self._dim] = rows
        return shape

    def _numel(self, rows: Range) -> int:
        return math.prod(self._shape(rows[1] - rows[0]))

    def _insert(self, shape: Sequence[int], target: Callable[..., Any], *args: Any) -> fx.Node:
        kind = ir.TensorType(ir.tensor_type(self._source).dtype, tuple(shape))
        return self._rewriter.insert(target, args, before=self._node, sources=(self._node,), type=kind)
