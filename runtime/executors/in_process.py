"""What the executors without worker processes share: inputs, weights and a lock."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.fetching import kept_on_host
from fastvideo_ir.memory import Memory

from ..host_weights import HostWeights
from ..inputs import InputPack
from ..memories import CacheCounts, Memories, Scope
from ..weights import check_params, params_of
from .base import WHOLE, Executor


class InProcessExecutor(Executor):
    """Runs a program in the calling thread, one call at a time.

    Args:
        program: what to run.
        params: whole tensors by source.
        device: where to run; params that lie elsewhere are copied there once, but for those that the program fetches.
        host: the params that are fetched, shared with other programs of the model.
        visiting: copy the params to the device at the first run, and again after each :meth:`rest`.
    """

    def __init__(
        self,
        program: ir.Program,
        params: Mapping[str, Tensor],
        device: torch.device,
        *,
        host: HostWeights | None = None,
        visiting: bool = False,
    ) -> None:
        self._inputs = InputPack(program)
        self._device = device
        self._lock = threading.Lock()
        self._closed = False
        self._memories = [Memories() for _ in range(program.mesh.num_ranks)]
        self._program = program
        self._host = host or HostWeights()
        self._visiting = visiting
        self._whole = check_params(program, params)
        self._params: dict[str, Tensor] | None = None
        if not visiting:
            self._params = self._placed()
            self._whole = {}  # copies elsewhere are not kept alive

    def _placed(self) -> dict[str, Tensor]:
        """The params where the program reads them."""
        away = {self._program.params[node.name].key for node in kept_on_host(self._program)}

        def place(param: ir.Param) -> Tensor:
            whole = self._whole[param.source]
            if param.key in away:
                return self._host.get(param.key, lambda: param.made_from(whole), self._device)
            return param.made_from(whole.to(self._device, copy=self._visiting))

        return {param.key: place(param) for param in params_of(self._program)}

    def run(self, inputs: Sequence[Tensor], scope: Scope = WHOLE) -> list[Any]:
        with self._lock, torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            if self._closed:
                raise ir.errors.FastVideoError("this executor is closed")
            if self._params is None:
                self._params = self._placed()
            placed = self._inputs.place(inputs, self._device)
            return self._run(self._params, placed, [memories.of(scope) for memories in self._memories])

    @abstractmethod
    def _run(self, params: dict[str, Tensor], inputs: list[Tensor], memories: list[Memory]) -> list[Any]:
        """Run on whole params, and inputs that are checked, on the device, with the memory of each rank."""

    def _weights_leave(self) -> None:
        """The weights are about to go from where they are."""

    @property
    def cache_counts(self) -> CacheCounts:
        return self._memories[0].counts

    @property
    def alive(self) -> bool:
        return not self._closed

    def rest(self) -> None:
        with self._lock:
            if self._visiting:
                self._weights_leave()
                self._params = None
                for memories in self._memories:
                    memories.release_invariant()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._weights_leave()
            self._params, self._whole = {}, {}
            self._memories = [Memories() for _ in self._memories]
