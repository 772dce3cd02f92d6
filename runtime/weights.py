"""The weights of one rank: of every param only the piece that the rank's placements need, once for all programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.fetching import kept_on_host

from .host_weights import on_host
from .process_groups import ProcessGroups

PieceKey = tuple[str, str, str, bool]
"""Key of a param, its type with placement, the mesh, and whether it is kept on the host: what determines a piece."""


class RankWeights:
    """Pieces that this rank holds, shared between the programs that place a param alike.

    On the CPU a piece is a view of the whole tensor wherever one range of each dim covers it; the whole is the caller's
    own memory, which the other ranks map. On CUDA rank 0 broadcasts one param at a time, and every rank keeps a copy
    of its piece alone, in the host's memory where the program fetches it from there.

    Args:
        groups: connect this rank to the others.
    """

    def __init__(self, groups: ProcessGroups) -> None:
        self.whole: dict[str, Tensor] = {}
        """Whole tensors by source, where this rank can see them: all on the CPU, those of rank 0 on CUDA."""
        self._groups = groups
        self._pieces: dict[PieceKey, Tensor] = {}
        self._users: Counter[PieceKey] = Counter()

    def acquire(self, program: ir.Program) -> dict[str, Tensor]:
        """The pieces that a program reads, by the params' keys. On CUDA all ranks must call this together.

        Raises:
            PeerLostError: another rank is gone.
        """
        result = {}
        for key, (param, value_type) in _placements(program).items():
            if key not in self._pieces:
                piece = self._make(param, value_type, program.mesh)
                self._pieces[key] = on_host(piece, self._groups.device) if key[3] else piece
            self._users[key] += 1
            result[key[0]] = self._pieces[key]
        if self._groups.device.type == "cuda":
            torch.cuda.empty_cache()  # of the whole params that were there for a moment
        return result

    def release(self, program: ir.Program) -> None:
        """Undo :meth:`acquire`; the last program that reads a piece takes it along."""
        for key in _placements(program):
            self._users[key] -= 1
            if self._users[key] == 0:
                del self._users[key], self._pieces[key]

    def keep(self, sources: Set[str]) -> None:
        """Drop the whole tensors of all other sources."""
        for source in self.whole.keys() - sources:
            del self.whole[source]

    def forget(self) -> None:
        """Drop every piece and whole tensor, because their values are out of date."""
        self.whole.clear()
        self._pieces.clear()
        self._users.clear()

    def _make(self, param: ir.Param, value_type: ir.TensorType, mesh: ir.Mesh) -> Tensor:
        at = mesh.coordinates(self._groups.rank)
        device = self._groups.device
        if device.type == "cpu":
            made = param.made_from(self.whole[param.source])
            piece = ir.local_slice(made, value_type, mesh, at)
            return piece.clone() if param.recipe is not None and piece.numel() < made.numel() else piece
        if self._groups.rank == 0:
            value = param.made_from(self.whole[param.source].to(device)).contiguous()
        else:
            value = torch.empty(value_type.shape, dtype=value_type.dtype, device=device)
        self._groups.broadcast(value)
        piece = ir.local_slice(value, value_type, mesh, at)
        own_copy = self._groups.rank > 0 or value is not self.whole[param.source]
        return piece.clone() if own_copy and piece.numel() < value.numel() else piece


def check_params(program: ir.Program, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's whole tensors that ``program`` reads, by source, detached.

    Raises:
        InvalidArgumentError: one is missing, has no plain values, or another shape or dtype than the program expects.
    """
    result = {}
    for param, value_type in _placements(program).values():
        source = param.source
        tensor = params.get(source)
        if tensor is None:
            raise ir.errors.InvalidArgumentError(f"the program reads the param {source!r}, which was not given")
        if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) or tensor.layout is not torch.strided:
            raise ir.errors.InvalidArgumentError(
                f"param {source!r} is a {type(tensor).__name__} of layout {tensor.layout}; it must be a plain tensor"
            )
        if tensor.device.type == "meta":
            raise ir.errors.InvalidArgumentError(f"param {source!r} is on the meta device: it has no values")
        found = ir.TensorType.of(param.made_from(tensor.to("meta")) if param.recipe else tensor)
        if found != value_type.unplaced:
            raise ir.errors.InvalidArgumentError(
                f"param {param.key!r} is {found}, the program expects {value_type.unplaced}"
            )
        result[source] = tensor.detach().resolve_conj().resolve_neg()
    return result


def params_of(program: ir.Program) -> list[ir.Param]:
    """The params that ``program`` reads."""
    return [program.params[node.name] for node in program.param_nodes]


def _placements(program: ir.Program) -> dict[PieceKey, tuple[ir.Param, ir.TensorType]]:
    mesh = str(program.mesh)
    away = kept_on_host(program)
    result = {}
    for node in program.param_nodes:
        param, value_type = program.params[node.name], ir.tensor_type(node)
        result[param.key, str(value_type), mesh, node in away] = param, value_type
    return result
