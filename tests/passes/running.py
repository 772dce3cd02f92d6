"""Running small programs before and after passes: whole, and on all ranks of their mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo.passes.localize import Localize, localize
from fastvideo.passes.pipelines import Target, resolve_pipeline
from fastvideo_ir.pass_manager import Verification

CPU = torch.device("cpu")
Values = tuple[dict[str, Tensor], list[Tensor]]
"""Params by source, and inputs."""


def program(body: str, stage: str = "canonical", mesh: str = "") -> ir.Program:
    """A program from its lines."""
    axes = f" mesh=({mesh})" if mesh else ""
    parsed = ir.parse_program(f"program stage={stage}{axes} {{\n{body}\n}}")
    ir.verify(parsed)
    return parsed


def passes_of(text: str) -> list[ir.Pass]:
    """Passes as pipelines write them; ``localize{rank=1}`` too, which runs per rank and is in no pipeline."""
    if text.startswith(Localize.name):
        _, _, options = text.rstrip("}").partition("{")
        return [Localize.with_options(dict(option.split("=", 1) for option in options.split(",") if option))]
    return resolve_pipeline(text, Target())


def run_passes(program: ir.Program, passes: str | Sequence[ir.Pass]) -> ir.Program:
    """A copy after ``passes``, verified after each of them."""
    result = program.copy()
    ir.run_passes(result, passes_of(passes) if isinstance(passes, str) else passes, [Verification()])
    return result


def random_values(program: ir.Program, seed: int = 0) -> Values:
    """Normal floats, small integers, coin flips."""
    generator = torch.Generator().manual_seed(seed)

    def draw(kind: ir.TensorType) -> Tensor:
        if kind.dtype == torch.bool:
            return torch.rand(kind.shape, generator=generator) < 0.7
        if kind.dtype.is_floating_point:
            return torch.randn(kind.shape, generator=generator, dtype=torch.float64).to(kind.dtype)
        return torch.randint(0, 4, kind.shape, generator=generator).to(kind.dtype)

    params = {program.params[node.name].source: draw(ir.tensor_type(node)) for node in program.param_nodes}
    return params, [draw(ir.tensor_type(node)) for node in program.input_nodes]


def run_whole(program: ir.Program, values: Values) -> list[Any]:
    params, inputs = values
    return ir.interpreter.evaluate(program, made_params(program, params), inputs, device=CPU)


def made_params(program: ir.Program, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a program reads, by key, from the model's tensors by source."""
    return {param.key: param.made_from(params[param.source]) for param in program.params.values()}


def run_ranks(program: ir.Program, values: Values) -> list[list[Any]]:
    """Outputs per rank of a program with explicit collectives; each rank gets its pieces of the params alone."""
    return RankRun(program, values).outputs()


class RankRun:
    """A program with explicit collectives, made ready for each of its ranks."""

    def __init__(self, program: ir.Program, values: Values) -> None:
        params, self._inputs = values
        ranks = range(program.mesh.num_ranks)
        kinds = {program.params[node.name].key: ir.tensor_type(node) for node in program.param_nodes}
        self._programs = [localize(program, rank) for rank in ranks]
        for local in self._programs:
            ir.verify(local)
        self._pieces = [
            {
                key: ir.local_slice(tensor, kinds[key], program.mesh, program.mesh.coordinates(rank))
                for key, tensor in made_params(program, params).items()
            }
            for rank in ranks
        ]

    def outputs(self) -> list[list[Any]]:
        return ir.interpreter.run_lockstep(self._programs, self._pieces, self._inputs, CPU)


def assert_close(outputs: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-5) -> None:
    """``max |a − b| / max |b|`` per tensor; integers, booleans and constants must be equal."""
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        if not isinstance(wanted, Tensor):
            assert output == wanted
            continue
        assert (output.dtype, output.shape) == (wanted.dtype, wanted.shape)
        if not wanted.dtype.is_floating_point:
            assert torch.equal(output, wanted)
            continue
        assert bool(output.isfinite().all())
        assert float((output - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def assert_same_numbers(before: ir.Program, after: ir.Program, tolerance: float = 1e-5) -> None:
    """Both compute the same, whole; and all ranks compute it together, where a program says how they talk."""
    values = random_values(before)
    expected = run_whole(before, values)
    if after.stage < ir.Stage.LOCAL:
        assert_close(run_whole(after, values), expected, tolerance)
    for talking in (before, after):
        if talking.stage is ir.Stage.COMMUNICATING:
            for outputs in run_ranks(talking, values):
                assert_close(outputs, expected, tolerance)


def count(program: ir.Program, target: object) -> int:
    """Calls of ``target``."""
    return sum(node.op == "call_function" and node.target is target for node in program.nodes)


def collectives(program: ir.Program) -> list[str]:
    """Names of the collectives, in order."""
    return [
        ir.ops.target_name(node.target).removeprefix("fv.")
        for node in program.nodes
        if node.target in ir.dialect.COLLECTIVES
    ]
