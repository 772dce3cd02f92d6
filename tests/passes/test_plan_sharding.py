"""``plan-sharding``: what a pinned axis divides, what it refuses, and plans on several axes; more in ``programs/``."""

from __future__ import annotations

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.passes.choose_mesh import ChooseMesh
from fastvideo.passes.localize import localize
from fastvideo.passes.plan_sharding import PlanSharding
from fastvideo_ir.errors import ShardingError

from ..e2e.measuring import count_work
from .running import (
    assert_close,
    assert_same_numbers,
    collectives,
    count,
    program,
    random_values,
    run_passes,
    run_ranks,
    run_whole,
)


@torch.library.custom_op("fvtest::no_rule", mutates_args=())
def no_rule(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1)


@no_rule.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


PLANNED = "plan-sharding,insert-reshards,expand-statistics,lower-reshards,pack-collectives"


def attention(batch: int, tokens: int, heads: int, mesh: str, head_dim: int = 8) -> ir.Program:
    """Projections, attention, and a projection back, with a residual."""
    channels = heads * head_dim
    token, split = f"f32[{batch}, {tokens}, {channels}]", f"[{batch}, {tokens}, {heads}, {head_dim}]"
    swapped = f"[{batch}, {heads}, {tokens}, {head_dim}]"
    lines = [f'%w{n} : f32[{channels}, {channels}] = param "{n}" parameter' for n in "qkvo"]
    lines.append(f"%x : {token} = input")
    for n in "qkv":
        lines.append(f"%{n} : {token} = aten.linear.default(%x, %w{n})")
        lines.append(f"%{n}4 : f32{split} = aten.reshape.default(%{n}, {split})")
        lines.append(f"%{n}h : f32{swapped} = aten.transpose.int(%{n}4, 1, 2)")
    lines.append(f"%a : f32{swapped} = fv.attention(%qh, %kh, %vh)")
    lines.append(f"%at : f32{split} = aten.transpose.int(%a, 1, 2)")
    lines.append(f"%flat : {token} = aten.reshape.default(%at, [{batch}, {tokens}, {channels}])")
    lines.append(f"%o : {token} = aten.linear.default(%flat, %wo)")
    lines.append(f"%y : {token} = aten.add.Tensor(%x, %o)")
    return program("\n".join([*lines, "return (%y)"]), mesh=mesh)


def type_of(program: ir.Program, name: str) -> str:
    return next(str(ir.value_type(node)) for node in program.nodes if node.name == name)


def busiest_share(after: ir.Program, name: str) -> float:
    """Share of the elements of ``name`` on the rank that holds most of them."""
    kind = next(ir.tensor_type(node) for node in after.nodes if node.name == name)
    mesh = after.mesh
    pieces = [torch.Size(kind.local_shape(mesh, mesh.coordinates(rank))).numel() for rank in range(mesh.num_ranks)]
    return max(pieces) / kind.numel


def work_ratio(before: ir.Program, after: ir.Program) -> float:
    """FLOPs of all ranks together, as a multiple of those of the whole program, both as torch counts them."""
    values = random_values(before)
    whole = count_work(lambda: run_whole(before, values)).total[None]
    of_ranks = count_work(lambda: run_ranks(after, values)).total
    return sum(of_ranks[rank] for rank in range(after.mesh.num_ranks)) / whole


@pytest.mark.parametrize(
    "mesh", ["sp=2", "sp=3", "sp=4", "tp=2", "tp=4", "cfg=2", "sp=2, tp=2", "cfg=2, sp=2", "dp=2, tp=2"]
)
def test_planned_program_is_sound_after_every_pass_and_computes_the_same(mesh: str) -> None:
    before = attention(2, 61, 8, mesh)
    after = run_passes(before, PLANNED)
    assert after.stage is ir.Stage.COMMUNICATING
    assert_same_numbers(before, after)
    # Eight heads on three ranks are the only ones here that cannot be cut evenly.
    assert busiest_share(after, "a") <= (3 / 8 if mesh == "sp=3" else 1.05 / after.mesh.num_ranks)


@pytest.mark.parametrize(
    ("heads", "ranks", "even"),
    [(8, 2, True), (8, 3, True), (9, 4, False), (10, 4, False), (10, 3, False), (5, 2, False)],
)
def test_heads_are_cut_only_where_the_busiest_rank_gets_little_more_than_its_share(
    heads: int, ranks: int, even: bool
) -> None:
    after = run_passes(attention(1, 301, heads, f"sp={ranks}"), PLANNED)
    # 3 of 8 heads are 1.125 shares; 3 of 9 on four ranks are 1.33, 4 of 10 on three 1.2.
    assert type_of(after, "a") == (f"f32[1, {heads}@sp, 301, 8]" if even else f"f32[1, {heads}, 301@sp, 8]")
    assert busiest_share(after, "a") <= 1.15 / ranks


def test_axis_on_top_of_another_divides_what_that_one_left() -> None:
    # Two samples on cfg=2 leave one each: cutting the batch again would leave half of the ranks idle.
    after = run_passes(attention(2, 61, 8, "cfg=2, sp=2"), PLANNED)
    assert type_of(after, "a") == "f32[2@cfg, 8@sp, 61, 8]"
    assert [type_of(after, name) for name in ("q", "o")] == ["f32[2@cfg, 61@sp, 64]"] * 2


def test_four_samples_may_be_cut_by_two_axes() -> None:
    after = run_passes(attention(4, 61, 8, "cfg=2, sp=2"), PLANNED)
    assert busiest_share(after, "a") == 1 / 4
    assert "all_to_all" not in collectives(after)


def test_guided_step_exchanges_nothing_between_its_halves_but_the_result() -> None:
    assert collectives(run_passes(attention(2, 61, 8, "cfg=2"), PLANNED)) == ["all_gather"]


def test_sequence_axis_leaves_params_whole_and_tensor_axis_cuts_them() -> None:
    after = run_passes(attention(1, 61, 8, "sp=2, tp=2"), PLANNED)
    params = [str(ir.tensor_type(node)) for node in after.param_nodes]
    assert params == ["f32[64/8@tp, 64]"] * 3 + ["f32[64, 64/8@tp]"]


@pytest.mark.parametrize("mesh", ["sp=4", "tp=4"])
def test_tiny_program_is_divided_like_its_large_sister(mesh: str) -> None:
    everywhere = PLANNED.replace("plan-sharding", "plan-sharding{replicated=0}")
    small = run_passes(attention(1, 8, 4, mesh), everywhere)
    large = run_passes(attention(1, 4096, 4, mesh, head_dim=64), everywhere)
    assert collectives(small) == collectives(large)
    assert [type_of(small, name).count("@") for name in "qkvao"] == [
        type_of(large, name).count("@") for name in "qkvao"
    ]


def test_what_two_axes_repeat_is_bounded_together() -> None:
    """Few text tokens are cheaper to project on every rank, for each axis by itself."""
    before = program(
        """
        %w : f32[64, 64] = param "w" parameter
        %u : f32[64, 64] = param "u" parameter
        %text : f32[1, 8, 64] = input
        %x : f32[1, 150, 64] = input
        %q : f32[1, 150, 64] = aten.linear.default(%x, %w)
        %k : f32[1, 8, 64] = aten.linear.default(%text, %u)
        %l : f32[1, 8, 64] = aten.silu.default(%k)
        %v : f32[1, 8, 64] = aten.linear.default(%l, %w)
        %q4 : f32[1, 150, 8, 8] = aten.reshape.default(%q, [1, 150, 8, 8])
        %v4 : f32[1, 8, 8, 8] = aten.reshape.default(%v, [1, 8, 8, 8])
        %qh : f32[1, 8, 150, 8] = aten.transpose.int(%q4, 1, 2)
        %vh : f32[1, 8, 8, 8] = aten.transpose.int(%v4, 1, 2)
        %a : f32[1, 8, 150, 8] = fv.attention(%qh, %vh, %vh)
        return (%a)""",
        mesh="sp=2, tp=2",
    )
    after = run_passes(before, PLANNED)
    assert 1 < work_ratio(before, after) <= 1.12
    assert_same_numbers(before, after)


def test_attention_is_divided_though_it_is_little_of_a_tiny_program() -> None:
    """At full size it grows with the square of the tokens; of one head the queries are cut."""
    before = program(
        """
        %w : f32[1024, 32] = param "w" parameter
        %u : f32[32, 1024] = param "u" parameter
        %x : f32[1, 1, 60, 32] = input
        %h : f32[1, 1, 60, 1024] = aten.linear.default(%x, %w)
        %g : f32[1, 1, 60, 1024] = aten.gelu.default(%h)
        %y : f32[1, 1, 60, 32] = aten.linear.default(%g, %u)
        %a : f32[1, 1, 60, 32] = fv.attention(%y, %y, %y)
        return (%a)""",
        mesh="tp=3",
    )
    after = run_passes(before, PLANNED)
    assert busiest_share(after, "a") == 1 / 3
    assert_same_numbers(before, after)


def test_samples_that_are_taken_apart_are_divided_by_heads() -> None:
    """No rank of ``cfg`` can do without one of them, but each does half of both."""
    before = program(
        """
        %w : f32[64, 64] = param "w" parameter
        %x : f32[2, 61, 64] = input
        %g : f32[2, 61, 64] = aten.linear.default(%x, %w)
        %f : f32[2, 61, 64] = aten.linear.default(%g, %w)
        %h : f32[2, 61, 64] = aten.linear.default(%f, %w)
        %h4 : f32[2, 61, 8, 8] = aten.reshape.default(%h, [2, 61, 8, 8])
        %hh : f32[2, 8, 61, 8] = aten.transpose.int(%h4, 1, 2)
        %one : f32[1, 8, 61, 8] = aten.slice.Tensor(%hh, 0, 0, 1)
        %rest : f32[1, 8, 61, 8] = aten.slice.Tensor(%hh, 0, 1, 2)
        %two : f32[1, 8, 55, 8] = aten.slice.Tensor(%rest, 2, 0, 55)
        %a : f32[1, 8, 61, 8] = fv.attention(%one, %one, %one)
        %b : f32[1, 8, 55, 8] = fv.attention(%two, %two, %two)
        return (%a, %b)""",
        mesh="cfg=2",
    )
    after = run_passes(before, PLANNED)
    assert busiest_share(after, "a") == busiest_share(after, "b") == 1 / 2
    assert_same_numbers(before, after)


def test_axis_that_is_not_pinned_leaves_tiny_programs_whole() -> None:
    assert collectives(run_passes(attention(1, 8, 4, "sp=4"), [PlanSharding(pinned=False)])) == []


def test_value_that_several_ops_use_is_exchanged_once() -> None:
    before = program(
        """
        %w : f32[64, 64] = param "w" parameter
        %x : f32[1, 301, 64] = input
        %h : f32[1, 301, 64] = aten.linear.default(%x, %w)
        %h4 : f32[1, 301, 8, 8] = aten.reshape.default(%h, [1, 301, 8, 8])
        %hh : f32[1, 8, 301, 8] = aten.transpose.int(%h4, 1, 2)
        %a : f32[1, 8, 301, 8] = fv.attention(%hh, %hh, %hh)
        return (%a)""",
        mesh="sp=2",
    )
    after = run_passes(before, PLANNED.replace("plan-sharding", "plan-sharding{replicated=0}"))
    assert collectives(after) == ["all_to_all", "all_gather"]


def test_unknown_op_runs_whole_on_every_rank_and_is_named_once() -> None:
    before = program(
        """
        %w : f32[64, 64] = param "w" parameter
        %x : f32[1, 301, 64] = input
        %h : f32[1, 301, 64] = aten.linear.default(%x, %w)
        %u : f32[1, 301, 64] = fvtest.no_rule.default(%h)
        %i : f32[1, 301, 64] = aten.linear.default(%u, %w)
        %j : f32[1, 301, 64] = fvtest.no_rule.default(%i)
        %y : f32[1, 301, 64] = aten.linear.default(%j, %w)
        return (%y)""",
        mesh="sp=2",
    )
    with pytest.warns(UserWarning) as warned:
        after = run_passes(before, PLANNED)
    (text,) = (str(warning.message) for warning in warned)
    assert text.startswith("fvtest.no_rule.default has no factor rule: its operands are gathered")
    assert type_of(after, "h") == type_of(after, "y") == "f32[1, 301@sp, 64]"
    assert type_of(after, "u") == "f32[1, 301, 64]"
    assert_same_numbers(before, after)


def test_batch_smaller_than_its_axis_is_refused() -> None:
    with pytest.raises(ShardingError) as caught:
        run_passes(attention(2, 61, 8, "cfg=3"), PLANNED)
    assert str(caught.value) == (
        "axis 'cfg' splits the batch over 3 ranks, but the inputs have a batch of 2 (use cfg=2 or less)"
    )


def test_axis_that_divides_nothing_is_refused() -> None:
    before = program(
        """
        %w : f32[64, 64] = param "w" parameter
        %x : f32[1, 64] = input
        %y : f32[1, 64] = aten.linear.default(%x, %w)
        return (%y)""",
        mesh="sp=2",
    )
    with pytest.raises(ShardingError) as caught:
        run_passes(before, PLANNED)
    assert str(caught.value) == (
        "axis 'sp' of 2 ranks divides only 0% of the program's FLOPs "
        "(there are too few tokens, heads or batch entries for it; use fewer ranks or another axis)"
    )
    assert "in pass plan-sharding" in caught.value.__notes__


def test_random_numbers_are_drawn_once_and_sent_to_all_ranks() -> None:
    text = """
        %w : f32[64, 64] = param "w" parameter
        %x : f32[1, 301, 64] = input
        %y : f32[1, 301, 64] = aten.linear.default(%x, %w)
        %noise : f32[1, 301, 64] = aten.rand_like.default(%y)
        %z : f32[1, 301, 64] = aten.add.Tensor(%y, %noise)
        return (%z)"""
    before = program(text, mesh="sp=2, tp=2")
    after = run_passes(before, PLANNED)
    values = random_values(before)
    torch.manual_seed(3)
    expected = run_whole(before, values)
    torch.manual_seed(3)
    for outputs in run_ranks(after, values):
        assert_close(outputs, expected)
    locals_ = [localize(after, rank) for rank in range(4)]
    assert [count(local, torch.ops.aten.rand_like.default) for local in locals_] == [1, 0, 0, 0]
    assert [count(local, ir.dialect.broadcast) for local in locals_] == [1, 1, 1, 1]


def test_mesh_of_one_rank_needs_no_exchange() -> None:
    assert collectives(run_passes(attention(1, 61, 8, "sp=1"), PLANNED)) == []


def test_types_say_nothing_of_a_mesh_that_a_program_has_not() -> None:
    after = run_passes(attention(1, 61, 8, ""), PLANNED)
    assert not any("@" in str(ir.value_type(node)) for node in after.nodes if node.op != "output")
    assert count(after, ir.dialect.shard) == 0


@pytest.mark.parametrize(
    ("batch", "heads", "ranks", "mesh"),
    [
        (1, 8, 4, "mesh(sp=4)"),
        (2, 8, 4, "mesh(cfg=2, sp=2)"),  # halves of a guided step exchange next to nothing
        (1, 6, 4, "mesh(ring=2, sp=2)"),  # six heads are 2, 2, 1 and 1 on four ranks
        (1, 5, 4, "mesh(sp=4)"),
    ],
)
def test_mesh_is_chosen_by_cost(batch: int, heads: int, ranks: int, mesh: str) -> None:
    text = ir.print_program(attention(batch, 4099, heads, "", head_dim=64))
    before = ir.parse_program(text.replace("f32", "bf16"))
    assert str(run_passes(before, [ChooseMesh(ranks=ranks)]).mesh) == mesh
