"""Cutting values into what the ranks hold, and putting them together again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvideo_ir import Mesh, TensorType
from fastvideo_ir.mesh import Coordinates
from tests.ir.cases.case import Draw


class PiecesError(AssertionError):
    """The pieces of all ranks do not make up one value."""


def split_partial(tensor: Tensor, kind: TensorType, mesh: Mesh, draw: Draw) -> list[Tensor]:
    """Whole tensors per rank that add up to ``tensor`` over the partial axes, and are equal along the others."""
    groups: dict[tuple[int, ...], Tensor] = {}
    axes = kind.partial
    keys = sorted({tuple(mesh.coordinates(rank)[axis] for axis in axes) for rank in range(mesh.num_ranks)})
    rest = tensor
    for key in keys[1:]:
        if tensor.dtype in (torch.bool, torch.uint8):
            addend = torch.where(draw.bools(*tensor.shape), rest, torch.zeros_like(rest))
            rest = torch.where(addend != 0, torch.zeros_like(rest), rest)
        else:
            addend = draw.real(*tensor.shape).mul(3).to(tensor.dtype)
            rest = rest - addend
        groups[key] = addend
    groups[keys[0]] = rest
    return [groups[tuple(mesh.coordinates(rank)[axis] for axis in axes)] for rank in range(mesh.num_ranks)]


def combine(pieces: list[Tensor], kind: TensorType, mesh: Mesh) -> Tensor:
    """The whole value that the ranks hold together.

    Raises:
        PiecesError: copies differ, or an element is held by nobody or twice.
    """
    total = torch.zeros(kind.shape, dtype=kind.dtype)
    times = torch.zeros(kind.shape, dtype=torch.int64)
    for rank, piece in enumerate(pieces):
        at = mesh.coordinates(rank)
        copied_from = {axis: 0 if axis in _copied_axes(kind, mesh) else index for axis, index in at.items()}
        first = mesh.rank(copied_from)
        if first != rank:
            if not torch.equal(torch.nan_to_num(piece), torch.nan_to_num(pieces[first])):
                raise PiecesError(f"ranks {first} and {rank} should hold the same, and do not")
            continue
        index = tuple(_grid(kind, mesh, at))
        total[index] += piece
        times[index] += 1
    copies = 1
    for axis in kind.partial:
        copies *= mesh.size(axis)
    if not bool((times == copies).all()):
        raise PiecesError("the pieces do not cover the result once")
    return total


def _copied_axes(kind: TensorType, mesh: Mesh) -> set[str]:
    return set(mesh.names) - kind.placed_axes


def _grid(kind: TensorType, mesh: Mesh, at: Coordinates) -> Iterator[Tensor]:
    rank = len(kind.shape)
    for dim in range(rank):
        ranges = [torch.arange(low, high) for low, high in kind.local_ranges(dim, mesh, at)]
        yield torch.cat(ranges).view([-1 if d == dim else 1 for d in range(rank)])
