"""Convolutions over a sharded dim: exact however it is cut, and no rank computes another's rows."""

from __future__ import annotations

import pytest

import fastvideo_ir as ir
from fastvideo.passes.analysis import NodeTimes
from fastvideo.passes.localize import localize
from fastvideo.passes.planner.cost import Hardware
from fastvideo_ir.errors import IdleAxisError, ShardingError, VerificationError
from fastvideo_ir.ops.conv import conv_halo

from .running import assert_close, collectives, count, program, random_values, run_passes, run_ranks, run_whole
from .test_ring_attention import flops_per_rank

LOWERED = "insert-reshards,expand-statistics,lower-reshards,pack-collectives"


def site(
    x: str, w: str, result: str, mesh: str, arguments: str = "None, [1, 1], [1, 1]", op: str = "conv2d.default"
) -> ir.Program:
    """One convolution whose operands arrive whole. Types are written with placements."""

    def whole(kind: str) -> str:
        return str(ir.types.parse_type(kind).unplaced)  # type: ignore[union-attr]

    return program(
        f"""
        %x0 : {whole(x)} = input
        %w0 : {whole(w)} = input
        %x : {x} = fv.reshard(%x0)
        %w : {w} = fv.reshard(%w0)
        %a : {result} = {op if op.startswith("fv.") else f"aten.{op}"}(%x, %w, {arguments})
        %y : {whole(result)} = fv.reshard(%a)
        return (%y)
        """,
        stage="placed",
        mesh=mesh,
    )


W = "f64[6, 4, 3, 3]"
CASES = {
    "uneven": ("f64[2, 4, 13@sp, 5]", W, "f64[2, 6, 13@sp, 5]", "sp=4"),
    "the last dim": ("f64[2, 4, 3, 13@sp]", W, "f64[2, 6, 3, 13@sp]", "sp=3"),
    "units": ("f64[1, 4, 12/4@sp, 5]", W, "f64[1, 6, 12/4@sp, 5]", "sp=2"),
    "fewer rows than ranks": ("f64[1, 4, 3@sp, 5]", W, "f64[1, 6, 3@sp, 5]", "sp=5"),
    "windows over several ranks": (
        "f64[1, 4, 7@sp, 5]", "f64[6, 4, 5, 3]", "f64[1, 6, 7@sp, 5]", "sp=4", "None, [1, 1], [6, 1], [3, 1]"
    ),
    "stride": ("f64[1, 4, 14/2@sp, 5]", W, "f64[1, 6, 7@sp, 5]", "sp=3", "None, [2, 1], [1, 1]"),
    "groups": (
        "f64[1, 4, 7@sp, 5]", "f64[4, 1, 3, 3]", "f64[1, 4, 7@sp, 5]", "sp=3", "None, [1, 1], [1, 1], [1, 1], 4"
    ),
    "channels over another axis": (
        "f64[1, 4, 7@sp, 5]", "f64[6@tp, 4, 3, 3]", "f64[1, 6@tp, 7@sp, 5]", "sp=2, tp=4"
    ),
    "groups over another axis": (
        "f64[1, 4@tp, 7@sp, 5]", "f64[4@tp, 1, 3, 3]", "f64[1, 4@tp, 7@sp, 5]", "tp=3, sp=3",
        "None, [1, 1], [1, 1], [1, 1], 4",
    ),
    "a sum over another axis": (
        "f64[1, 4@tp, 7@sp, 5]", "f64[6, 4@tp, 3, 3]", "f64[1, 6, 7@sp, 5]{sum:tp}", "tp=2, sp=3"
    ),
    "same": ("f64[1, 4, 7@sp, 5]", W, "f64[1, 6, 7@sp, 5]", "sp=3", "None, [1, 1], \"same\"", "conv2d.padding"),
    "repeated border": (
        "f64[2, 4, 7@sp, 5]", W, "f64[2, 6, 7@sp, 5]", "sp=3", "None, [1, 1], [1, 1], [1, 1], 1", "fv.conv_replicate"
    ),
    "repeated border, far away": (
        "f64[1, 4, 7@sp, 5]", "f64[6, 4, 5, 3]", "f64[1, 6, 7@sp, 5]", "sp=9",
        "None, [1, 1], [6, 1], [3, 1], 1", "fv.conv_replicate",
    ),
    "one dim": ("f64[1, 4, 7@sp]", "f64[6, 4, 3]", "f64[1, 6, 7@sp]", "sp=3", "None, [1], [1]", "conv1d.default"),
    "three dims": (
        "f64[1, 4, 3, 7@sp, 4]", "f64[6, 4, 3, 3, 3]", "f64[1, 6, 1, 7@sp, 4]", "sp=3", "None, [1, 1, 1], [0, 1, 1]",
        "conv3d.default",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_halo_is_exact(name: str) -> None:
    before = site(*CASES[name])
    after = run_passes(before, LOWERED)
    assert count(after, conv_halo) == 1
    assert "all_to_all" not in collectives(after)
    values = random_values(before)
    expected = run_whole(before, values)
    assert_close(run_whole(after, values), expected, 1e-12)
    for outputs in run_ranks(after, values):
        assert_close(outputs, expected, 1e-12)


def test_each_rank_computes_its_rows_and_fetches_no_more_than_its_windows_read() -> None:
    before = site("f64[1, 4, 13@sp, 5]", W, "f64[1, 6, 13@sp, 5]", "sp=4")
    after = run_passes(before, LOWERED)
    values = random_values(before)
    whole = flops_per_rank(lambda: run_whole(before, values))[None]
    per_rank = flops_per_rank(lambda: run_ranks(after, values))
    assert [per_rank[rank] * 13 for rank in range(4)] == [whole * rows for rows in (4, 3, 3, 3)]
    row = 4 * 5
    for rank, edges in enumerate((1, 2, 2, 1)):
        (exchange,) = (node for node in localize(after, rank).nodes if node.target is ir.dialect.exchange)
        assert sum(exchange.args[2]) == sum(exchange.args[3]) == edges * row  # type: ignore[arg-type]
    (node,) = (node for node in after.nodes if node.target is conv_halo)
    times = NodeTimes(after, Hardware())
    assert times.bytes_sent(node) == 2 * row * 8
    assert times.communication(node) > Hardware().latency


def test_windows_that_change_the_size_stay_whole() -> None:
    for x, result, arguments in (
        ("f64[1, 4, 13, 5]", "f64[1, 6, 11, 5]", "None, [1, 1], [0, 1]"),
        ("f64[1, 4, 13, 5]", "f64[1, 6, 7, 5]", "None, [2, 1], [1, 1]"),
    ):
        for cut in (x.replace("13", "13@sp"), x):
            kind = result.replace("[1, 6, 11", "[1, 6, 11@sp").replace("[1, 6, 7", "[1, 6, 7@sp")
            with pytest.raises(VerificationError, match="placement-mismatch"):
                site(cut, W, kind, "sp=2", arguments)


def test_edges_travel_over_one_axis() -> None:
    for x, result in (
        ("f64[1, 4, 8@a, 8@b]", "f64[1, 6, 8@a, 8@b]"),
        ("f64[1, 4, 8@a.b, 8]", "f64[1, 6, 8@a.b, 8]"),
    ):
        with pytest.raises(ShardingError, match="exchange the edges of its pieces over 'a' and 'b', but can over one"):
            run_passes(site(x, W, result, "a=2, b=2"), LOWERED)


@pytest.mark.parametrize("mesh", ["tp=2, sp=3", "sp=3, tp=2"])
def test_axes_planned_after_another_leave_it_the_edges(mesh: str) -> None:
    text = """
        %w : f64[6, 4, 3, 3] = param "w" parameter
        %v : f64[6, 6, 3, 3] = param "v" parameter
        %x : f64[1, 4, 9, 7] = input
        %a : f64[1, 6, 9, 7] = aten.conv2d.default(%x, %w, None, [1, 1], [1, 1])
        %b : f64[1, 6, 9, 7] = aten.conv2d.default(%a, %v, None, [1, 1], [1, 1])
        return (%b)"""
    before = program(text, mesh=mesh)
    after = run_passes(before, f"plan-sharding,{LOWERED}")
    assert count(after, conv_halo) == 2
    values = random_values(before)
    for outputs in run_ranks(after, values):
        assert_close(outputs, run_whole(before, values), 1e-12)


def test_a_second_axis_of_rows_idles() -> None:
    before = program(
        """
        %w : f64[6, 4, 3, 3] = param "w" parameter
        %x : f64[1, 4, 9, 7] = input
        %a : f64[1, 6, 9, 7] = aten.conv2d.default(%x, %w, None, [1, 1], [1, 1])
        return (%a)""",
        mesh="sp=2, ring=2",
    )
    with pytest.raises(IdleAxisError, match="'ring' of 2 ranks divides only 0%"):
        run_passes(before, "plan-sharding")


def test_verifier_wants_the_edges_to_be_exchanged() -> None:
    text = """
        %x : f64[1, 4, 8@sp, 5] = input pinned(sp)
        %w : f64[6, 4, 3, 3] = input
        %a : f64[1, 6, 8@sp, 5] = {}
        %row : (f64[1, 6, 8, 5]) = fv.all_gather([%a], "sp")
        %y : f64[1, 6, 8, 5] = getitem(%row, 0)
        return (%y)"""
    arguments = "%x, %w, None, [1, 1], [1, 1], [1, 1], 1"
    program(text.format(f'fv.conv_halo({arguments}, 2, "sp")'), "communicating", "sp=2")
    for wrong in (f"aten.conv2d.default({arguments})", f'fv.conv_halo({arguments}, 2, "tp")'):
        with pytest.raises(VerificationError, match=r"\[exchange\] %a: ranks exchange over"):
            program(text.format(wrong), "communicating", "sp=2")
