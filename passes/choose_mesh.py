"""``choose-mesh``: decides which mesh of N ranks suits the program best, by the planner's own cost."""

from __future__ import annotations

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import tensor_operands
from fastvideo_ir.ops.attention import is_attention

from .analysis import NodeTimes
from .expand_statistics import ExpandStatistics
from .insert_reshards import InsertReshards
from .lower_reshards import LowerReshards
from .pack_collectives import PackCollectives
from .plan_sharding import PlanSharding, at_scale
from .planner.cost import Hardware

Axes = tuple[tuple[str, int], ...]


class ChooseMesh(ir.Pass):
    """Sets the mesh of a program that has none. Work is divided over every axis of each candidate.

    Candidates are sequence parallelism over all ranks; where the inputs are a batch of two or more (a guided step), a
    split of the batch with sequence parallelism over the rest; and of each, where the heads cannot be cut evenly, heads
    over as many ranks as divide them and a ring over the rest. Each is planned, and the fastest by the cost model wins.

    Attributes:
        ranks: how many ranks the mesh gets.
        hardware: what the cost model assumes.
        device: type of the device that the program will run on.
    """

    name = "choose-mesh"
    needs = ir.Stage.CANONICAL

    ranks: int = 1
    hardware: Hardware = Hardware()
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        if program.mesh.axes or self.ranks == 1:
            return
        candidates = self._candidates(batch_size(program.input_nodes), most_worked_heads(program))
        if len(candidates) > 1:
            candidates.sort(key=lambda mesh: self._seconds(program, mesh))
        program.mesh = candidates[0]

    def _candidates(self, batch: int, heads: int) -> list[ir.Mesh]:
        splits: list[tuple[Axes, int]] = [((), self.ranks)]
        for parts in range(2, min(batch, self.ranks) + 1):
            if batch % parts == 0 and self.ranks % parts == 0:
                splits.append(((("cfg", parts),), self.ranks // parts))
        candidates = []
        for outer, rest in splits:
            candidates.append(ir.Mesh((*outer, ("sp", rest)) if rest > 1 else outer))
            cut = next(size for size in range(rest, 0, -1) if rest % size == 0 and heads % size == 0)
            if 1 < cut < rest:
                candidates.append(ir.Mesh((*outer, ("ring", rest // cut), ("sp", cut))))
        return candidates

    def _seconds(self, program: ir.Program, mesh: ir.Mesh) -> float:
        """Modelled, of one run; infinite where the mesh cannot be used."""
        trial = program.copy()
        trial.mesh = mesh
        steps = [InsertReshards(), ExpandStatistics(), LowerReshards(), PackCollectives()]
        try:
            ir.run_passes(trial, [PlanSharding(hardware=self.hardware, device=self.device), *steps])
        except ir.errors.ShardingError:
            return float("inf")
        times = NodeTimes(trial, at_scale(program, self.hardware, frozenset()))
        calls = [node for node in trial.nodes if node.op == "call_function"]
        return sum(times.compute(node) + times.communication(node) for node in calls)


def batch_size(inputs: list[fx.Node]) -> int:
    """The leading dim that all inputs of two or more dims share; one where they differ."""
    sizes = {ir.tensor_type(node).shape[0] for node in inputs if len(ir.tensor_type(node).shape) > 1}
    return sizes.pop() if len(sizes) == 1 else 1


def most_worked_heads(program: ir.Program) -> int:
    """Key heads of the attention with the most work; one where there is none."""
    sizes = {}
    for node in program.nodes:
        if is_attention(node) and len(ir.tensor_type(node).shape) == 4:
            query, key = (ir.tensor_type(operand).shape for operand in tensor_operands(node)[:2])
            sizes[query[0] * query[1] * query[2] * key[2] * query[3]] = key[1]
    return sizes[max(sizes)] if sizes else 1
