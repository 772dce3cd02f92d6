"""The IR's communicator over the process groups of one rank of a mesh."""

from __future__ import annotations

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.pending import Pending

from .process_groups import ProcessGroups


class MeshCommunicator:
    """Collectives along the axes of ``mesh`` for one of its ranks; see :class:`fastvideo_ir.interpreter.Communicator`.

    Raises:
        PeerLostError: from every method, when another rank is gone.
    """

    def __init__(self, groups: ProcessGroups, mesh: ir.Mesh) -> None:
        self._groups = groups
        self._ranks = {axis: mesh.group(groups.rank, axis) for axis in mesh.names}
        for ranks in self._ranks.values():
            groups.connect(ranks)

    def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor | Pending:
        """All-to-all with uneven pieces, which lie end to end in one buffer."""
        ranks = self._ranks[axis]
        if len(ranks) == 1:
            return send.clone()
        return self._groups.all_to_all(ranks, send.contiguous(), send_numels, receive_numels)

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor | Pending:
        """``value`` of every peer. Uneven ones are exchanged: the all-gather of c10d takes equal shards only."""
        ranks = self._ranks[axis]
        if len(ranks) == 1:
            return value.clone()
        if len(set(numels)) > 1:
            return self.exchange(axis, value.repeat(len(ranks)), [value.numel()] * len(ranks), numels)
        return self._groups.all_gather(ranks, value.contiguous())

    def all_reduce(self, axis: str, value: Tensor) -> Tensor | Pending:
        """Sum over the peers, as a new tensor; every peer gets the same bits."""
        ranks = self._ranks[axis]
        total = value.clone(memory_format=torch.contiguous_format)
        if len(ranks) == 1:
            return total
        pending = self._groups.all_reduce_(ranks, torch.view_as_real(total) if total.is_complex() else total)
        return Pending(total, pending.finish, total)

    def broadcast(self, value: Tensor) -> Tensor:
        """The value of rank 0, received in ``value`` itself elsewhere."""
        value = value.contiguous()
        if value.numel() and len(self._groups.everybody) > 1:
            self._groups.broadcast(value)
        return value
