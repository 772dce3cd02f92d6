"""One rank in the calling process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.memory import Memory

from ...passes.localize import localize
from ...passes.outline_blocks import OutlineBlocks
from ..host_weights import HostWeights
from .in_process import InProcessExecutor


class LocalExecutor(InProcessExecutor):
    """Runs a program for a mesh of one rank; see :class:`InProcessExecutor`.

    Args:
        generator: who makes the code of blocks: ``eager`` or ``inductor``.
    """

    def __init__(
        self,
        program: ir.Program,
        params: Mapping[str, Tensor],
        device: torch.device,
        *,
        generator: str = "eager",
        host: HostWeights | None = None,
        visiting: bool = False,
    ) -> None:
        if program.mesh.num_ranks != 1:
            raise ir.errors.InvalidArgumentError(f"the local executor has one rank, the program wants {program.mesh}")
        super().__init__(program, params, device, host=host, visiting=visiting)
        self._local = localize(program, 0)
        ir.run_passes(self._local, [OutlineBlocks(generator=generator)])

    def _run(self, params: dict[str, Tensor], inputs: list[Tensor], memories: list[Memory]) -> list[Any]:
        alone = ir.interpreter.Alone()
        return ir.interpreter.run_rank(self._local, params, inputs, alone, self._device, memories[0])
