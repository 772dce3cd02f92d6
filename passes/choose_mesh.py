"""``choose-mesh``: decides which mesh of N ranks suits the program best, by the planner's own cost."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir

from .plan_sharding import PlanSharding, plan_program
from .planner.cost import Hardware


class ChooseMesh(ir.Pass):
    """Sets the mesh of a program that has none. Work is divided over every axis of each candidate.

    Candidates are sequence parallelism over all ranks, and, where the inputs are a batch of two or more (a guided
    step), a split of the batch with sequence parallelism over the rest.

    Attributes:
        ranks: how many ranks the mesh gets.
        hardware: what the cost model assumes.
    """

    name = "choose-mesh"
    needs = ir.Stage.CANONICAL

    ranks: int = 1
    hardware: Hardware = Hardware()

    def run(self, program: ir.Program) -> None:
        if program.mesh.axes or self.ranks == 1:
            return
        candidates = [ir.Mesh((("sp", self.ranks),))]
        batch = batch_size(program.input_nodes)
        for parts in range(2, min(batch, self.ranks) + 1):
            if batch % parts == 0 and self.ranks % parts == 0:
                rest = self.ranks // parts
                candidates.append(ir.Mesh((("cfg", parts), *([("sp", rest)] if rest > 1 else []))))
        program.mesh = (
            min(candidates, key=lambda mesh: self._seconds(program, mesh)) if candidates[1:] else candidates[0]
        )

    def _seconds(self, program: ir.Program, mesh: ir.Mesh) -> float:
        """Modelled, of one run; infinite where the mesh cannot be used."""
        trial = program.copy()
        trial.mesh = mesh
        try:
            return plan_program(trial, PlanSharding(hardware=self.hardware))
        except ir.errors.ShardingError:
            return float("inf")


def batch_size(inputs: list[fx.Node]) -> int:
    """The leading dim that all inputs of two or more dims share; one where they differ."""
    sizes = {ir.tensor_type(node).shape[0] for node in inputs if len(ir.tensor_type(node).shape) > 1}
    return sizes.pop() if len(sizes) == 1 else 1
