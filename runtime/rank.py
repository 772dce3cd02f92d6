"""What one rank does with programs, the caller's rank 0 and a worker alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir

from ..passes.localize import localize
from ..passes.outline_blocks import OutlineBlocks
from .communicator import MeshCommunicator
from .inputs import InputPack
from .memories import CacheCounts, Memories, Scope
from .process_groups import ProcessGroups
from .progress import Progress
from .weights import RankWeights


@dataclass
class _Loaded:
    program: ir.Program
    inputs: InputPack
    communicator: MeshCommunicator | None = None
    params: dict[str, Tensor] = field(default_factory=dict)
    memories: Memories = field(default_factory=Memories)


class Rank:
    """Programs of one rank, by number.

    All ranks of a group call the same methods in the same order; :meth:`prepare` and :meth:`run` communicate.
    """

    def __init__(self, groups: ProcessGroups, progress: Progress) -> None:
        self.groups = groups
        self.weights = RankWeights(groups)
        self._progress = progress
        self._loaded: dict[int, _Loaded] = {}

    def load(self, number: int, program: ir.Program, generator: str) -> None:
        """Take this rank's part of a program, and let ``generator`` make its code. Needs no other rank."""
        local = localize(program, self.groups.rank)
        ir.run_passes(local, [OutlineBlocks(generator=generator)])
        self._loaded[number] = _Loaded(local, InputPack(local))
        self._progress.advance()

    def prepare(self, number: int) -> None:
        """Connect to the program's peers and take this rank's pieces of the weights, which are known by now."""
        loaded = self._loaded[number]
        self.groups.connect(self.groups.everybody)
        loaded.communicator = MeshCommunicator(self.groups, loaded.program.mesh)
        loaded.params = self.weights.acquire(loaded.program)
        self._progress.advance()

    def place(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Rank 0: the inputs of a run, checked and on the device. See :meth:`InputPack.place`."""
        return self._loaded[number].inputs.place(inputs, self.groups.device)

    def run(self, number: int, scope: Scope, inputs: Sequence[Tensor] | None = None) -> list[Any]:
        """Run a program. Rank 0 gives the inputs, from :meth:`place`; the others receive them."""
        loaded = self._loaded[number]
        assert loaded.communicator is not None, "a program is prepared before it runs"
        device = self.groups.device
        # The graph holds every cast that it needs; what the caller is inside of must not reach rank 0 alone.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if inputs is None:
                buffer = torch.empty(loaded.inputs.nbytes, dtype=torch.uint8, device=device)
                inputs = loaded.inputs.unpack(buffer)
            else:
                buffer = loaded.inputs.pack(inputs, device)
            if buffer.numel():
                self.groups.broadcast(buffer)
            memory = loaded.memories.of(scope)
            outputs = ir.interpreter.run_rank(
                loaded.program, loaded.params, inputs, loaded.communicator, device, memory
            )
        self._progress.advance()
        return outputs

    def cache_counts(self, number: int) -> CacheCounts:
        """How many calls of a program left blocks out in the last generation."""
        return self._loaded[number].memories.counts

    def forget_weights(self) -> None:
        """Let go of all weights, before new ones come; every program must be prepared again."""
        self.weights.forget()
        for loaded in self._loaded.values():
            loaded.params = {}

    def rest(self, number: int) -> None:
        """Let go of what follows from invariant inputs, and of the pieces that no other program reads.

        The program must be prepared again.
        """
        loaded = self._loaded[number]
        loaded.memories.release_invariant()
        self.weights.release(loaded.program)
        loaded.params = {}

    def drop(self, number: int, *, rests: bool) -> None:
        """Forget a program, which may rest, and the weights that no other one reads."""
        loaded = self._loaded.pop(number)
        if not rests:
            self.weights.release(loaded.program)
        self.weights.keep({p.source for loaded in self._loaded.values() for p in loaded.program.params.values()})
