"""``lower-reshards``: between any two placements there is a road of single-axis moves that ranks can take."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo.passes.localize import localize
from fastvideo.passes.lower_reshards import LowerReshards
from fastvideo.passes.planner.moves import moves
from fastvideo_ir.types import parse_type

from ..ir.strategies import meshes, placements

MOST_MOVES = 8
MESH = ir.Mesh((("sp", 4), ("tp", 2)))


@st.composite
def journeys(draw: st.DrawFn) -> tuple[ir.Mesh, ir.TensorType, ir.TensorType]:
    """A mesh and two placements of one value on it; axes may share a dim in either order."""
    mesh = draw(meshes)
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    ends = []
    for _ in range(2):
        kind = ir.TensorType(torch.float64, shape)
        for axis in draw(st.permutations(mesh.names)):
            kind = kind.with_placement(axis, draw(placements(kind)))
        ends.append(kind)
    return mesh, ends[0], ends[1]


def kind_of(text: str) -> ir.TensorType:
    kind = parse_type(text)
    assert isinstance(kind, ir.TensorType)
    return kind


@pytest.mark.parametrize(
    ("source", "target", "steps"),
    [
        ("f32[4]", "f32[4@sp]", ["sp"]),
        ("f32[4@sp, 6]", "f32[4, 6@sp]", ["sp"]),
        ("f32[4]{sum:sp}", "f32[4@sp]", ["sp"]),
        ("f32[4@sp]", "f32[4]{sum:sp}", ["sp", "sp"]),
        ("f32[4]{sum:sp}", "f32[4@tp.sp]", ["tp", "sp"]),
        ("f32[4@sp]{sum:tp}", "f32[4@tp.sp]", ["tp", "sp", "tp", "sp"]),
        ("f32[7+4@sp]", "f32[11@sp]", ["sp"]),
        ("f32[4]", "f32[4@sp.tp]", ["sp", "tp"]),
        ("f32[4@sp.tp]", "f32[4]", ["tp", "sp"]),
        ("f32[4@sp.tp, 6]", "f32[4@sp, 6@tp]", ["tp"]),
        ("f32[4@tp]", "f32[4@sp.tp]", ["tp", "sp", "tp"]),
        ("f32[4@sp, 6@tp]", "f32[4@tp, 6@sp]", ["tp", "sp", "tp"]),
    ],
)
def test_cheapest_road_is_taken(source: str, target: str, steps: list[str]) -> None:
    taken = moves(kind_of(source), kind_of(target), MESH)
    assert [axis for axis, _ in taken] == steps
    assert taken[-1][1] == kind_of(target)


@pytest.mark.parametrize(
    ("source", "target", "steps"),
    [
        ("f32[64@sp, 64]", "f32[64, 64@tp]", ["tp", "sp"]),
        ("f32[64@tp, 64]", "f32[64, 64@sp]", ["sp", "tp"]),
        ("f32[64@sp, 64]{sum:tp}", "f32[64, 64]", ["tp", "sp"]),
        ("f32[64@sp, 64]{sum:tp}", "f32[64, 64@tp]", ["tp", "sp"]),
        ("f32[64@tp, 64@sp]", "f32[64@sp, 64]", ["tp", "sp"]),
    ],
)
def test_what_shrinks_a_value_comes_before_what_makes_it_larger(source: str, target: str, steps: list[str]) -> None:
    assert [axis for axis, _ in moves(kind_of(source), kind_of(target), MESH)] == steps


def test_value_that_is_in_place_is_not_moved() -> None:
    assert moves(kind_of("f32[4@sp, 6]{sum:tp}"), kind_of("f32[4@sp, 6]{sum:tp}"), MESH) == ()


def road(mesh: ir.Mesh, source: ir.TensorType, target: ir.TensorType) -> ir.Program:
    """A program that takes a param from ``source`` to ``target`` and gathers it."""
    graph = fx.Graph()
    program = ir.Program(graph, {"x": ir.Param("x")}, mesh, ir.Stage.PLACED)
    nodes = [graph.placeholder("x")]
    for _ in range(2):
        nodes.append(graph.call_function(ir.dialect.reshard, (nodes[-1],)))
    graph.output((nodes[-1],))
    for node, kind in zip(nodes, (source, target, source.unplaced), strict=True):
        node.meta = {}
        ir.set_info(node, ir.NodeInfo(kind))
    ir.verify(program)
    return program


@settings(max_examples=150)
@given(journeys())
def test_every_journey_ends_with_the_same_value_on_every_rank(
    journey: tuple[ir.Mesh, ir.TensorType, ir.TensorType],
) -> None:
    mesh, source, target = journey
    program = road(mesh, source, target)
    ir.run_passes(program, [LowerReshards()])
    ir.verify(program)
    whole = torch.randn(source.shape, dtype=torch.float64)
    ranks = range(mesh.num_ranks)
    pieces = [{"x": ir.local_slice(whole, source, mesh, mesh.coordinates(rank))} for rank in ranks]
    outputs = ir.interpreter.run_lockstep([localize(program, rank) for rank in ranks], pieces, [], torch.device("cpu"))
    for (output,) in outputs:
        assert isinstance(output, Tensor)
        torch.testing.assert_close(output, whole)


@settings(max_examples=300)
@given(journeys())
def test_each_move_changes_one_axis_and_roads_are_short(
    journey: tuple[ir.Mesh, ir.TensorType, ir.TensorType],
) -> None:
    mesh, source, target = journey
    now = source
    steps = moves(source, target, mesh)
    assert len(steps) <= MOST_MOVES
    for axis, after in steps:
        assert now.placement(axis) != after.placement(axis)
        assert all(now.placement(other) == after.placement(other) for other in mesh.names if other != axis)
        now = after
    assert now == target


def test_collectives_stand_where_the_reshard_stood_and_name_it() -> None:
    mesh = ir.Mesh((("sp", 2),))
    program = road(mesh, kind_of("f64[4]{sum:sp}"), kind_of("f64[4@sp]"))
    ir.run_passes(program, [LowerReshards()])
    calls = [node for node in program.nodes if node.op == "call_function" and node.target is not operator.getitem]
    assert [ir.ops.target_name(node.target) for node in calls] == ["fv.reduce_scatter", "fv.all_gather"]
    assert {ir.info(node).provenance for node in calls} == {
        ir.Provenance("lower-reshards", ("reshard",)),
        ir.Provenance("lower-reshards", ("reshard_1",)),
    }
