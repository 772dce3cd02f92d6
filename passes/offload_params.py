"""``offload-params``: params stay in the host's memory, and a block's are fetched while the block before it runs.

Source: Ren et al., "ZeRO-Offload: Democratizing Billion-Scale Model Training" (2021), for inference and by blocks.
Nothing is hooked: the fetches stand in the program, each a block ahead of the calls that read it. What was fetched is
freed behind its last use, so that the device holds the params of two blocks at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.fetching import fetch

from .analysis import USABLE, local_bytes, predict_memory, stretches_of

GOLDEN = (5**0.5 - 1) / 2
"""Numbers in the order of their multiples' fractional parts are spread evenly, however few of them are taken."""


class OffloadParams(ir.Pass):
    """Vectors, which are next to nothing, stay on the device, and so does every block for which there is room.

    Attributes:
        always: offload all blocks, whether memory is short or not.
        memory: bytes of one device, beyond which blocks are offloaded until the program fits; 0 for no limit.
        device: its type.
    """

    name = "offload-params"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    always: bool = False
    memory: int = 0
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        if self.always:
            _offload(program, set())
        elif self.memory and self._excess(program, None) > 0:
            _offload(program, self._fitting(program))

    def _fitting(self, program: ir.Program) -> set[fx.Node]:
        """The params that stay: as many as leave no excess."""
        room = -self._excess(program, set())
        while staying := _staying(program, room):
            excess = self._excess(program, staying)
            if excess <= 0:
                return staying
            room -= excess  # blocks with and without fetches are not cut alike, which moves the peak
        return set()

    def _excess(self, program: ir.Program, staying: set[fx.Node] | None) -> int:
        """By how much the peak is beyond what may be filled, with all but ``staying`` offloaded; None: nothing is."""
        trial = program
        if staying is not None:
            trial = program.copy()
            stay = {node.name for node in staying}
            _offload(trial, {node for node in trial.param_nodes if node.name in stay})
        return predict_memory(trial, device=self.device).total - int(USABLE * self.memory)


def _offload(program: ir.Program, staying: set[fx.Node]) -> None:
    """Let every stretch fetch the params that it reads and that do not stay, at the start of the stretch before."""
    rewriter = ir.Rewriter(program, OffloadParams.name)
    stretches = stretches_of(program)
    params = [node for node in program.param_nodes if _is_worth_it(program, node) and node not in staying]
    for number, stretch in enumerate(stretches):
        inside = set(stretch)
        ahead = stretches[max(number - 1, 0)][0]
        for param in params:
            readers = inside.intersection(param.users)
            if not readers:
                continue
            fetched = rewriter.insert(fetch, (param,), before=ahead, sources=(param,), type=ir.tensor_type(param))
            if all(ir.info(reader).invariant for reader in readers):
                rewriter.set_invariant(fetched)  # left out with those that it is for
            rewriter.replace(param, fetched, only=inside.__contains__, erase=False)


def _is_worth_it(program: ir.Program, param: fx.Node) -> bool:
    return sum(size > 1 for size in ir.tensor_type(param).shape) > 1 and program.output_node not in param.users


def _staying(program: ir.Program, room: int) -> set[fx.Node]:
    """Params of as many stretches as there is room for, evenly spread: their compute hides the others' transfers."""
    groups = [_params_of(program, stretch) for stretch in stretches_of(program)]
    staying: set[fx.Node] = set()
    for number in sorted(range(len(groups)), key=lambda number: number * GOLDEN % 1):
        more = groups[number] - staying
        size = sum(local_bytes(program, param, 0) for param in more)
        if size <= room:
            room -= size
            staying |= more
    return staying


def _params_of(program: ir.Program, stretch: Sequence[fx.Node]) -> set[fx.Node]:
    return {operand for node in stretch for operand in node.all_input_nodes if operand.name in program.params}
