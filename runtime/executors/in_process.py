"""What the executors without worker processes share: inputs, weights and a lock."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.memory import Memory

from ..inputs import InputPack
from ..memories import CacheCounts, Memories, Scope
from ..weights import check_params, params_of
from .base import WHOLE, Executor


class InProcessExecutor(Executor):
    """Runs a program in the calling thread, one call at a time.

    Args:
        program: what to run.
        params: whole tensors by source.
        device: where to run; params that lie elsewhere are copied there once.
    """

    def __init__(self, program: ir.Program, params: Mapping[str, Tensor], device: torch.device) -> None:
        self._inputs = InputPack(program)
        self._device = device
        self._lock = threading.Lock()
        self._closed = False
        self._memories = [Memories() for _ in range(program.mesh.num_ranks)]
        whole = check_params(program, params)
        self._params = {param.key: param.made_from(whole[param.source].to(device)) for param in params_of(program)}

    def run(self, inputs: Sequence[Tensor], scope: Scope = WHOLE) -> list[Any]:
        with self._lock, torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            if self._closed:
                raise ir.errors.FastVideoError("this executor is closed")
            return self._run(
                self._inputs.place(inputs, self._device), [memories.of(scope) for memories in self._memories]
            )

    @abstractmethod
    def _run(self, inputs: list[Tensor], memories: list[Memory]) -> list[Any]:
        """Run on inputs that are checked and on the device, with the memory of each rank."""

    @property
    def cache_counts(self) -> CacheCounts:
        return self._memories[0].counts

    @property
    def alive(self) -> bool:
        return not self._closed

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._params = {}
            self._memories = [Memories() for _ in self._memories]
