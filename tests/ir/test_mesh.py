"""Ranks are row-major over the axes."""

from __future__ import annotations

import pytest
from hypothesis import given

from fastvideo_ir import Mesh
from fastvideo_ir.errors import InvalidArgumentError
from tests.ir.strategies import meshes


@given(meshes)
def test_rank_and_coordinates_are_inverse(mesh: Mesh) -> None:
    assert [mesh.rank(mesh.coordinates(rank)) for rank in range(mesh.num_ranks)] == list(range(mesh.num_ranks))


@given(meshes)
def test_groups_of_an_axis_are_a_partition(mesh: Mesh) -> None:
    for axis in mesh.names:
        groups = list(mesh.groups(axis))
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.num_ranks))
        for group in groups:
            assert [mesh.coordinates(rank)[axis] for rank in group] == list(range(mesh.size(axis)))
            assert all(mesh.group(rank, axis) == group for rank in group)


def test_the_last_axis_varies_fastest() -> None:
    mesh = Mesh((("cfg", 2), ("sp", 3)))
    assert mesh.coordinates(4) == {"cfg": 1, "sp": 1}
    assert mesh.group(4, "sp") == (3, 4, 5)
    assert mesh.group(4, "cfg") == (1, 4)
    assert str(mesh) == "mesh(cfg=2, sp=3)"


def test_a_mesh_of_no_axes_has_one_rank() -> None:
    assert Mesh().num_ranks == 1
    assert Mesh().coordinates(0) == {}


def test_wrong_meshes_and_questions_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="axis names must differ"):
        Mesh((("sp", 2), ("sp", 3)))
    with pytest.raises(InvalidArgumentError, match="'sp' must have at least one rank, got 0"):
        Mesh((("sp", 0),))
    with pytest.raises(InvalidArgumentError, match=r"mesh\(sp=2\) has no axis 'tp'"):
        Mesh((("sp", 2),)).size("tp")
    with pytest.raises(InvalidArgumentError, match="rank 2 is not in a mesh of 2 ranks"):
        Mesh((("sp", 2),)).coordinates(2)
