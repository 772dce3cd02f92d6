"""All ranks in the calling process, in lockstep, with exact collectives: a plan for eight GPUs on a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.memory import Memory

from ...passes.localize import localize
from .in_process import InProcessExecutor


class SimulatedExecutor(InProcessExecutor):
    """Runs every rank of the program's mesh on one device; see :class:`InProcessExecutor`."""

    def __init__(
        self, program: ir.Program, params: Mapping[str, Tensor], device: torch.device, *, visiting: bool = False
    ) -> None:
        super().__init__(program, params, device, visiting=visiting)
        self._programs = [localize(program, rank) for rank in range(program.mesh.num_ranks)]
        self._types = {program.params[node.name].key: ir.tensor_type(node) for node in program.param_nodes}

    def _pieces(self, params: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Per rank, views of the whole params."""
        mesh = self._program.mesh
        return [
            {
                key: ir.local_slice(tensor, self._types[key], mesh, mesh.coordinates(rank))
                for key, tensor in params.items()
            }
            for rank in range(mesh.num_ranks)
        ]

    def _run(self, params: dict[str, Tensor], inputs: list[Tensor], memories: list[Memory]) -> list[Any]:
        pieces = self._pieces(params)
        return ir.interpreter.run_lockstep(self._programs, pieces, inputs, self._device, memories)[0]
