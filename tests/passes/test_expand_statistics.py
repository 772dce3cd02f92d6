"""``expand-statistics``: nothing is lost against the plain op, one axis or two, and no rank may skip it."""

from __future__ import annotations

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.passes.lower_reshards import LowerReshards
from fastvideo_ir.errors import InvalidArgumentError

from .running import collectives, program, run_passes, run_ranks

PASSES = "expand-statistics,lower-reshards,pack-collectives"
FAR = 300.0
"""A mean that is this many deviations from zero: sums of squares minus squares of sums are off by 1e-2 in fp32."""


def sharded(op: str, kind: str, arguments: list[object], mesh: str = "tp=3", axes: str = "tp") -> ir.Program:
    """One op over the last dim of ``[5, 70]``, which is sharded; the result is gathered where it is sharded too."""
    whole, cut = f"{kind}[5, 70]", f"{kind}[5, 70@{axes}]"
    lines = [f"%x : {whole} = input", f"%s : {cut} = fv.reshard(%x)"]
    call = f"aten.{op}(%s, {str(arguments)[1:-1]})"
    if op in ("layer_norm.default", "rms_norm.default"):
        lines += [f"%y : {cut} = {call}", f"%z : {whole} = fv.reshard(%y)", "return (%z)"]
    else:
        lines += [f"%y : {kind}[5] = {call}", "return (%y)"]
    return program("\n".join(f"  {line}" for line in lines), stage="placed", mesh=mesh)


OPS: list[tuple[str, list[object]]] = [
    ("layer_norm.default", [[70]]),
    ("rms_norm.default", [[70]]),
    ("mean.dim", [[1]]),
    ("var.correction", [[1]]),
    ("std.dim", [[1]]),
    ("linalg_vector_norm.default", [2, [1]]),
]


@pytest.mark.parametrize(("mesh", "axes"), [("tp=3", "tp"), ("sp=2, tp=2", "sp.tp")])
@pytest.mark.parametrize("kind", ["f64", "f32", "bf16"])
@pytest.mark.parametrize(("op", "arguments"), OPS)
def test_ranks_are_as_close_to_exact_as_the_plain_op(
    op: str, arguments: list[object], kind: str, mesh: str, axes: str
) -> None:
    before = sharded(op, kind, arguments, mesh, axes)
    after = run_passes(before, PASSES)
    dtype = ir.tensor_type(before.input_nodes[0]).dtype
    x = (torch.randn(5, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + FAR).to(dtype)
    run = ir.ops.registry.ops[f"aten.{op}"].target
    exact, plain = run(x.double(), *arguments), run(x, *arguments).double()
    limit = max(2 * float((plain - exact).abs().max()), torch.finfo(dtype).eps * float(exact.abs().max()), 1e-12)
    for (found,) in run_ranks(after, ({}, [x])):
        assert float((found.double() - exact).abs().max()) <= limit


def test_ranks_exchange_nothing_of_the_size_of_the_tokens() -> None:
    after = run_passes(sharded("layer_norm.default", "f32", [[70]]), PASSES)
    assert collectives(after) == ["all_reduce", "all_reduce", "all_gather"]
    reduced = [node for node in after.nodes if node.target is ir.dialect.all_reduce]
    assert all(str(ir.value_type(node)) == "(f32[5, 1])" for node in reduced)


def test_norm_that_nobody_expanded_is_refused() -> None:
    """Each rank would normalize its own piece, and nothing would look wrong."""
    with pytest.raises(InvalidArgumentError, match=r"aten.layer_norm.default works along a sharded dim .*expand-stat"):
        ir.run_passes(sharded("layer_norm.default", "f32", [[70]]), [LowerReshards()])
