"""One rank in the calling process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.memory import Memory

from ...passes.localize import localize
from ...passes.outline_blocks import OutlineBlocks
from ..host_weights import HostWeights
from ..step_graphs import StepGraphs
from .in_process import InProcessExecutor


class LocalExecutor(InProcessExecutor):
    """Runs a program for a mesh of one rank; see :class:`InProcessExecutor`.

    Args:
        generator: who makes the code of blocks: ``eager`` or ``inductor``.
        cuda_graphs: whether calls are replayed as one CUDA graph; None: where that is faster. GPUs alone.
        no_graphs: why they must not be, beyond what the program says; empty where nothing speaks against it.
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
        cuda_graphs: bool | None = None,
        no_graphs: str = "",
    ) -> None:
        if program.mesh.num_ranks != 1:
            raise ir.errors.InvalidArgumentError(f"the local executor has one rank, the program wants {program.mesh}")
        super().__init__(program, params, device, host=host, visiting=visiting)
        self._local = localize(program, 0)
        ir.run_passes(self._local, [OutlineBlocks(generator=generator)])
        self._graphs = (
            StepGraphs(self._local, self._launch, self._weights, device, wish=cuda_graphs, refusal=no_graphs)
            if device.type == "cuda"
            else None
        )

    def _run(self, params: dict[str, Tensor], inputs: list[Tensor], memories: list[Memory]) -> list[Any]:
        return self._launch(inputs, memories[0]) if self._graphs is None else self._graphs(inputs, memories[0])

    def _launch(self, inputs: Sequence[Tensor], memory: Memory) -> list[Any]:
        """Kernel by kernel."""
        assert self._params is not None, "weights are placed before a program runs"
        alone = ir.interpreter.Alone()
        return ir.interpreter.run_rank(self._local, self._params, inputs, alone, self._device, memory)

    def _weights(self) -> Iterable[Tensor]:
        return (self._params or {}).values()

    @property
    def launching(self) -> str:
        return "" if self._graphs is None else self._graphs.verdict

    def _weights_leave(self) -> None:
        if self._graphs is not None:
            self._graphs.forget()
