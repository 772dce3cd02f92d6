"""The ranks that compiled models run on: started when they are first needed, shared by models compiled together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.garbage import collections_put_off

from .extension import check_importable, worker_plugins
from .runtime.executors import Executor, LocalExecutor, SimulatedExecutor, WorkerGroup
from .runtime.host_weights import HostWeights
from .settings import Settings


class Ranks:
    """Worker processes for any number of models on the same devices; they end when the last model leaves."""

    def __init__(self) -> None:
        self.group: WorkerGroup | None = None
        self._members: set[int] = set()
        self._numbers = itertools.count()

    def join(self, settings: Settings) -> Member:
        """A model's share in the ranks."""
        number = next(self._numbers)
        self._members.add(number)
        return Member(self, number, settings)

    def _leave(self, number: int) -> None:
        self._members.discard(number)
        if not self._members and self.group is not None:
            self.group.close()
            self.group = None


class Member:
    """What one model does with its ranks. Names of weights are made its own, since every model has a ``weight``."""

    def __init__(self, ranks: Ranks, number: int, settings: Settings) -> None:
        self._ranks = ranks
        self._number = number
        self._settings = settings
        self._prefix = f"{number}/" if number else ""
        self._host = HostWeights()

    @property
    def group(self) -> WorkerGroup | None:
        """The worker processes, once a program has needed them."""
        return self._ranks.group

    @collections_put_off()
    def executor(
        self, program: ir.Program, params: Mapping[str, Tensor], *, visiting: bool = False, no_graphs: str = ""
    ) -> Executor:
        """What runs a program.

        Args:
            program: planned; for one rank, it runs in this process.
            params: whole tensors by source.
            visiting: its weights are on the devices only from a run to the next :meth:`Executor.rest`.
            no_graphs: why calls must not be CUDA graphs; empty where they may.
        """
        settings = self._settings
        if settings.executor == "simulated":
            return SimulatedExecutor(program, params, settings.device, visiting=visiting)
        if program.mesh.num_ranks == 1:
            return LocalExecutor(
                program,
                params,
                settings.device,
                generator=settings.codegen,
                host=self._host,
                visiting=visiting,
                cuda_graphs=settings.cuda_graphs,
                no_graphs=no_graphs,
            )
        check_importable(program)
        if self._ranks.group is None:
            self._ranks.group = WorkerGroup(settings.num_ranks, settings.device, plugins=worker_plugins())
        named = program.copy()
        for name, param in named.params.items():
            named.params[name] = replace(param, source=self._prefix + param.source)
        return self._ranks.group.load(named, self._own(params), generator=settings.codegen, visiting=visiting)

    def revive(self) -> None:
        """Start the workers anew if one has failed."""
        if self.group is not None and not self.group.alive:
            self.group.restart()

    def update(self, params: Mapping[str, Tensor]) -> None:
        """Bring new weights to this model's programs on the worker processes, if it has any there."""
        self._host.forget()
        if self.group is not None:
            self.group.update_params(self._own(params))

    def leave(self) -> None:
        """The model is closed, and its executors are. Idempotent."""
        self._ranks._leave(self._number)

    def _own(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self._prefix + source: tensor for source, tensor in params.items()}
