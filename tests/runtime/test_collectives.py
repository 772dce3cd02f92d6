"""Collectives between real processes: values are those of the simulated mesh and of plain torch, bit for bit."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo.runtime.executors import LocalExecutor, SimulatedExecutor, WorkerGroup

from .programs import CPU, linear, program


def run(group: WorkerGroup, made: ir.Program, inputs: Sequence[Tensor], params: dict[str, Tensor]) -> list[Tensor]:
    with group.load(made, params) as executor, SimulatedExecutor(made, params, CPU) as simulated:
        results = executor.run(inputs)
        for real, expected in zip(results, simulated.run(inputs), strict=True):
            assert torch.equal(real, expected) if isinstance(real, Tensor) else real == expected
        return results


def test_sharded_linear(group: WorkerGroup) -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    out, constant = run(group, linear(group.num_ranks), [x], {"w": w})
    torch.testing.assert_close(out, x @ w.T)
    assert constant == 3


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i64", "i16", "u8", "bool", "f8e4m3", "c64"])
def test_exchange_moves_any_dtype(pair: WorkerGroup, dtype: str) -> None:
    made = program(
        2,
        f"""
        %x : {dtype}[7, 3] = input
        %rows : {dtype}[7@sp, 3] = fv.shard(%x, "sp")
        %exchanged : ({dtype}[7, 3@sp]) = fv.all_to_all([%rows], "sp")
        %columns : {dtype}[7, 3@sp] = getitem(%exchanged, 0)
        %gathered : ({dtype}[7, 3]) = fv.all_gather([%columns], "sp")
        %out : {dtype}[7, 3] = getitem(%gathered, 0)
        return (%out)""",
    )
    x = (torch.randn(7, 3) * 3).to(ir.types.DTYPES_BY_NAME[dtype])
    with pair.load(made, {}) as executor:
        (out,) = executor.run([x])
    assert out.dtype == x.dtype
    assert torch.equal(out.view(torch.uint8), x.view(torch.uint8))


@pytest.mark.parametrize("rows", [12, 7, 2, 1])
def test_gather_of_even_uneven_and_empty_shards(trio: WorkerGroup, rows: int) -> None:
    made = program(
        3,
        f"""
        %x : f32[{rows}, 4] = input
        %rows : f32[{rows}@sp, 4] = fv.shard(%x, "sp")
        %gathered : (f32[{rows}, 4]) = fv.all_gather([%rows], "sp")
        %out : f32[{rows}, 4] = getitem(%gathered, 0)
        return (%out)""",
    )
    x = torch.randn(rows, 4)
    (out,) = run(trio, made, [x], {})
    assert torch.equal(out, x)


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "i64", "c64"])
def test_sums(group: WorkerGroup, dtype: str) -> None:
    made = program(
        group.num_ranks,
        f"""
        %x : {dtype}[5, 6] = input
        %part : {dtype}[5, 6]{{sum:sp}} = fv.make_partial(%x, "sp")
        %reduced : ({dtype}[5, 6]) = fv.all_reduce([%part], "sp")
        %whole : {dtype}[5, 6] = getitem(%reduced, 0)
        %again : {dtype}[5, 6]{{sum:sp}} = fv.make_partial(%whole, "sp")
        %scattered : ({dtype}[5@sp, 6]) = fv.reduce_scatter([%again], "sp")
        %rows : {dtype}[5@sp, 6] = getitem(%scattered, 0)
        %gathered : ({dtype}[5, 6]) = fv.all_gather([%rows], "sp")
        %out : {dtype}[5, 6] = getitem(%gathered, 0)
        return (%out, %whole)""",
    )
    x = (torch.randn(5, 6) * 8).to(ir.types.DTYPES_BY_NAME[dtype])
    for result in run(group, made, [x], {}):
        assert torch.equal(result, x)


def test_row_parallel_sum_is_the_same_on_all_ranks(trio: WorkerGroup) -> None:
    made = program(
        3,
        """
        %w : f32[8, 7@sp] = param "w" parameter
        %x : f32[4, 7] = input
        %columns : f32[4, 7@sp] = fv.shard(%x, "sp")
        %part : f32[4, 8]{sum:sp} = aten.linear.default(%columns, %w)
        %reduced : (f32[4, 8]) = fv.all_reduce([%part], "sp")
        %whole : f32[4, 8] = getitem(%reduced, 0)
        %mine : f32[4, 8@sp] = fv.shard(%whole, "sp")
        %gathered : (f32[4, 8]) = fv.all_gather([%mine], "sp")
        %out : f32[4, 8] = getitem(%gathered, 0)
        return (%out, %whole)""",
    )
    x, w = torch.randn(4, 7), torch.randn(8, 7)
    with trio.load(made, {"w": w}) as executor:
        gathered, whole = executor.run([x])
    assert torch.equal(gathered, whole)
    torch.testing.assert_close(whole, x @ w.T)


def test_two_mesh_axes() -> None:
    body = """
        %x : f32[5, 7] = input
        %rows : f32[5@cfg, 7] = fv.shard(%x, "cfg")
        %both : f32[5@cfg, 7@sp] = fv.shard(%rows, "sp")
        %exchanged : (f32[5@cfg.sp, 7]) = fv.all_to_all([%both], "sp")
        %twice : f32[5@cfg.sp, 7] = getitem(%exchanged, 0)
        %first : (f32[5@cfg, 7]) = fv.all_gather([%twice], "sp")
        %half : f32[5@cfg, 7] = getitem(%first, 0)
        %second : (f32[5, 7]) = fv.all_gather([%half], "cfg")
        %out : f32[5, 7] = getitem(%second, 0)
        return (%out)"""
    x = torch.randn(5, 7)
    group = WorkerGroup(4, CPU)
    try:
        for axes in ("cfg=2, sp=2", "cfg=1, sp=4", "cfg=4, sp=1"):
            (out,) = run(group, program(4, body, axes), [x], {})
            assert torch.equal(out, x), axes
    finally:
        group.close()


def test_local_executor() -> None:
    x, w = torch.randn(10, 5), torch.randn(7, 5)
    with LocalExecutor(linear(1), {"w": w}, CPU) as executor:
        assert torch.equal(executor.run([x])[0], torch.nn.functional.linear(x, w))
        with pytest.raises(ir.errors.InvalidArgumentError, match=r"input 'x' is f32\[2, 5\], .* f32\[10, 5\]"):
            executor.run([x[:2]])
    assert not executor.alive
    with pytest.raises(ir.errors.FastVideoError, match="closed"):
        executor.run([x])
    with pytest.raises(ir.errors.InvalidArgumentError, match="one rank"):
        LocalExecutor(linear(2), {"w": w}, CPU)
