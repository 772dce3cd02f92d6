"""What a placement op is on one rank: slices that pack what it sends, one transfer of a flat buffer, and slices that
lay out what it receives. As plain tensor ops, so that a code generator can fuse packing with the ops before it and
unpacking with the ops behind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.collectives import Move
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import result_types, tensor_operands
from fastvideo_ir.mesh import Coordinates
from fastvideo_ir.ops.define import aten

from .first_rank import empty


class Expansion:
    """Replaces one placement op of a rank's program by local ops and a transfer."""

    def __init__(self, rewriter: ir.Rewriter, node: fx.Node) -> None:
        self._rewriter = rewriter
        self._node = node
        self._mesh, self._at = rewriter.program.mesh, rewriter.program.coordinates
        self._anchor = node
        self._operands = tensor_operands(node)
        self._results = [kind for kind in result_types(node) if kind is not None]
        axis = node.args[1]
        assert isinstance(axis, str)
        self._axis = axis
        self._moves = [
            Move(ir.tensor_type(operand), result, axis, self._mesh, self._at)
            for operand, result in zip(self._operands, self._results, strict=True)
        ]
        self._dtype = self._results[0].dtype

    def expand(self) -> None:
        """Put the local ops in the place of the node."""
        match self._node.target:
            case ir.dialect.shard:
                self._rewriter.replace(self._node, self._cut())
            case ir.dialect.make_partial:
                self._rewriter.replace(self._node, self._addend())
            case ir.dialect.all_reduce:
                self._replace_row(self._reduce())
            case ir.dialect.all_gather:
                self._replace_row(self._gather_for_first_rank() if self._is_for_first_rank() else self._gather())
            case _:
                self._replace_row(self._exchange())

    def _first_readers(self) -> dict[int, fx.Node]:
        """Per element of the row, the first node that takes it out."""
        found: dict[int, fx.Node] = {}
        waiting, node = len(self._node.users), self._node.next
        while waiting:
            if node in self._node.users:
                number = node.args[1]
                assert isinstance(number, int)
                found.setdefault(number, node)
                waiting -= 1
            node = node.next
        return found

    def _replace_row(self, values: Sequence[fx.Node]) -> None:
        for user in list(self._node.users):
            number = user.args[1]
            assert isinstance(number, int)
            self._rewriter.replace(user, values[number])
        self._rewriter.erase(self._node)

    def _cut(self) -> fx.Node:
        (move,), (operand,), (kind,) = self._moves, self._operands, self._results
        return self._typed(self._take(operand, move, move.at), kind)

    def _addend(self) -> fx.Node:
        """A value that is summed over an axis is held by the axis' first rank alone."""
        (operand,), (kind,) = self._operands, self._results
        return operand if self._at[self._axis] == 0 else self._insert(kind, aten.zeros_like.default, operand)

    def _reduce(self) -> list[fx.Node]:
        if len(self._operands) == 1:
            return [self._insert(self._results[0], ir.dialect.sum_over, self._operands[0], self._axis)]
        numels = [math.prod(self._local(kind)) for kind in self._results]
        flat = self._joined([self._flat(operand) for operand in self._operands])
        total = self._insert(self._buffer(sum(numels)), ir.dialect.sum_over, flat, self._axis)
        return [
            self._insert(kind, aten.reshape.default, part, list(self._local(kind)))
            for part, kind in zip(self._parts(total, numels), self._results, strict=True)
        ]

    def _gather(self) -> list[fx.Node]:
        per_peer, numels = self._received()
        flat = self._joined([self._flat(operand) for operand in self._operands])
        received = self._insert(self._buffer(sum(per_peer)), ir.dialect.gather, flat, self._axis, per_peer)
        return self._assemble(received, numels)

    def _is_for_first_rank(self) -> bool:
        """Whether nobody but rank 0 needs the gathered values: they are what it computes for all of."""
        return all(runs_on_first_rank(user) for value in self._node.users for user in value.users)

    def _gather_for_first_rank(self) -> list[fx.Node]:
        """Pieces go to the axis' first rank alone; the others bring memory, which nobody reads."""
        per_peer, numels = self._received()
        others = [0] * (len(per_peer) - 1)
        flat = self._joined([self._flat(operand) for operand in self._operands])
        sent = [self._local_of(flat)[0], *others]
        if self._at[self._axis] == 0:
            kind = self._buffer(sum(per_peer))
            return self._assemble(self._insert(kind, ir.dialect.exchange, flat, self._axis, sent, per_peer), numels)
        self._insert(self._buffer(0), ir.dialect.exchange, flat, self._axis, sent, [0, *others])
        return [empty(self._rewriter, kind, self._node) for kind in self._results]

    def _exchange(self) -> list[fx.Node]:
        per_peer, numels = self._received()
        chunks, sent = [], []
        for peer in self._moves[0].peers:
            count = 0
            for operand, move in zip(self._operands, self._moves, strict=True):
                receiver = move.peer(peer)
                shape = move.chunk_shape(self._at, receiver)
                piece = self._take(operand, move, receiver)
                chunks.append(self._flat(piece))
                count += math.prod(shape)
            sent.append(count)
        received = self._insert(
            self._buffer(sum(per_peer)), ir.dialect.exchange, self._joined(chunks), self._axis, sent, per_peer
        )
        return self._assemble(received, numels)

    def _received(self) -> tuple[list[int], list[list[int]]]:
        """Elements from each peer in all, and per value."""
        numels = [move.receive_numels() for move in self._moves]
        return [sum(column) for column in zip(*numels, strict=True)], numels

    def _assemble(self, received: fx.Node, numels: list[list[int]]) -> list[fx.Node]:
        """The values, out of a buffer that holds peer after peer, and of each peer value after value.

        Each is put together where it is first asked for, so that a transfer may be under way until then.
        """
        peers = self._moves[0].peers
        ends = list(itertools.accumulate(row[peer] for peer in peers for row in numels))
        readers = self._first_readers()
        values = []
        for number, (move, kind) in enumerate(zip(self._moves, self._results, strict=True)):
            self._anchor = readers.get(number, self._node)
            chunks = []
            for peer in peers:
                shape = move.chunk_shape(move.peer(peer), self._at)
                end = ends[peer * len(numels) + number]
                (piece,) = self._slices(received, 0, [(end - math.prod(shape), end)])
                chunks.append(self._insert(ir.TensorType(kind.dtype, shape), aten.reshape.default, piece, list(shape)))
            values.append(
                self._sum(chunks, kind) if move.gathered_dim is None else self._interleave(chunks, move, kind)
            )
        return values

    def _sum(self, chunks: Sequence[fx.Node], kind: ir.TensorType) -> fx.Node:
        """In rank order, so that every run adds alike."""
        total = chunks[0]
        for chunk in chunks[1:]:
            total = self._insert(kind, aten.add.Tensor, total, chunk)
        return self._typed(total, kind)

    def _interleave(self, chunks: Sequence[fx.Node], move: Move, kind: ir.TensorType) -> fx.Node:
        """Pieces of all peers in the order of their global index."""
        dim = move.gathered_dim
        assert dim is not None
        parts: list[tuple[int, fx.Node]] = []
        for peer, chunk in zip(move.peers, chunks, strict=True):
            held = move.pieces(dim, move.peer(peer), self._at)
            bounds, low = [], 0
            for start, stop in held:
                bounds.append((low, low + stop - start))
                low += stop - start
            for (start, _), piece in zip(held, self._slices(chunk, dim, bounds), strict=True):
                parts.append((start, piece))
        parts.sort(key=lambda part: part[0])
        if not parts:
            return self._typed(chunks[0], kind)
        return self._insert(kind, aten.cat.default, [piece for _, piece in parts], dim)

    def _take(self, operand: fx.Node, move: Move, receiver: Coordinates) -> fx.Node:
        """What of a local value goes to ``receiver``."""
        for dim in sorted({move.gathered_dim, move.scattered_dim} - {None}, key=str):
            assert dim is not None
            bounds = move.parts_for(dim, receiver)
            slices = self._slices(operand, dim, bounds)
            shape = list(self._local_of(operand))
            shape[dim] = sum(high - low for low, high in bounds)
            joined = ir.TensorType(self._dtype, tuple(shape))
            operand = slices[0] if len(slices) == 1 else self._insert(joined, aten.cat.default, slices, dim)
        return operand

    def _slices(self, value: fx.Node, dim: int, bounds: Sequence[tuple[int, int]]) -> list[fx.Node]:
        shape = list(self._local_of(value))
        whole = shape[dim]
        result = []
        for low, high in bounds:
            if (low, high) == (0, whole):
                result.append(value)
                continue
            shape[dim] = high - low
            kind = ir.TensorType(self._dtype, tuple(shape))
            result.append(self._insert(kind, aten.slice.Tensor, value, dim, low, high))
        return result

    def _parts(self, buffer: fx.Node, numels: Sequence[int]) -> list[fx.Node]:
        result, offset = [], 0
        for count in numels:
            result += self._slices(buffer, 0, [(offset, offset + count)])
            offset += count
        return result

    def _typed(self, value: fx.Node, kind: ir.TensorType) -> fx.Node:
        """The same value under its global type; where a rank keeps the operand itself, in a node of its own."""
        if value in self._operands:
            return self._insert(kind, aten.alias.default, value)
        self._rewriter.set_type(value, kind)
        return value

    def _flat(self, value: fx.Node) -> fx.Node:
        count = math.prod(self._local_of(value))
        return self._insert(self._buffer(count), aten.reshape.default, value, [count])

    def _joined(self, buffers: Sequence[fx.Node]) -> fx.Node:
        if len(buffers) == 1:
            return buffers[0]
        count = sum(self._local_of(buffer)[0] for buffer in buffers)
        return self._insert(self._buffer(count), aten.cat.default, list(buffers))

    def _buffer(self, numel: int) -> ir.TensorType:
        return ir.TensorType(self._dtype, (numel,))

    def _local(self, kind: ir.TensorType) -> tuple[int, ...]:
        return kind.local_shape(self._mesh, self._at)

    def _local_of(self, node: fx.Node) -> tuple[int, ...]:
        return self._local(ir.tensor_type(node))

    def _insert(self, kind: ir.TensorType, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._rewriter.insert(target, args, before=self._anchor, sources=(self._node,), type=kind)
