"""Types print, parse, and say which piece of a value each rank holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvideo_ir import Layout, Mesh, Partial, Replicate, Shard, TensorType, TupleType, local_slice
from fastvideo_ir.errors import ParseError, ShardingError
from fastvideo_ir.types import DTYPE_NAMES, parse_type
from tests.ir.pieces import combine
from tests.ir.strategies import AXES, meshes, placed_types

F32 = torch.float32


@given(placed_types())
def test_text_of_a_tensor_type_round_trips(kind: TensorType) -> None:
    assert parse_type(str(kind)) == kind


@given(st.lists(st.one_of(st.none(), placed_types()), max_size=3))
def test_text_of_a_tuple_type_round_trips(elements: list[TensorType | None]) -> None:
    kind = TupleType(tuple(elements))
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_every_dtype_has_a_name_of_its_own(dtype: torch.dtype) -> None:
    assert parse_type(str(TensorType(dtype, ()))) == TensorType(dtype, ())


def test_text_is_as_documented() -> None:
    kind = TensorType(torch.bfloat16, (1, 105, 1920)).with_placement("sp", Shard(1, Layout.even(105)))
    kind = kind.with_placement("tp", Shard(2, Layout.even(1920, 64))).with_placement("cfg", Partial())
    assert str(kind) == "bf16[1, 105@sp, 1920/64@tp]{sum:cfg}"


def test_axes_on_one_dim_print_outermost_first() -> None:
    layout = Layout.even(12)
    kind = TensorType(F32, (12,)).with_placement("tp", Shard(0, layout)).with_placement("sp", Shard(0, layout))
    assert str(kind) == "f32[12@tp.sp]"


@pytest.mark.parametrize("text", ["", "f32", "q7[3]", "f32[3", "f32[3]{tp}", "f32[a]", "(f32[3], (f32[3]))"])
def test_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_type(text)


@given(st.data(), meshes)
def test_pieces_of_all_ranks_make_the_value_again(data: st.DataObject, mesh: Mesh) -> None:
    kind = data.draw(placed_types(mesh.names, torch.float64))
    value = torch.arange(kind.numel, dtype=torch.float64).view(kind.shape) + 1
    pieces = [local_slice(value, kind, mesh, mesh.coordinates(rank)) for rank in range(mesh.num_ranks)]
    for rank, piece in enumerate(pieces):
        assert tuple(piece.shape) == kind.local_shape(mesh, mesh.coordinates(rank))
    assert torch.equal(combine(pieces, kind, mesh), value)


@given(placed_types())
def test_placement_of_each_axis_rebuilds_the_type(kind: TensorType) -> None:
    order = [axis for dim in kind.dims if dim for axis in dim.axes] + sorted(kind.partial)
    rebuilt = kind.unplaced
    for axis in order:
        rebuilt = rebuilt.with_placement(axis, kind.placement(axis))
    assert rebuilt == kind
    assert kind.placed_axes == set(order)


@given(placed_types())
def test_replicating_every_axis_gives_the_unplaced_type(kind: TensorType) -> None:
    for axis in AXES:
        kind = kind.with_placement(axis, Replicate())
    assert kind == kind.unplaced


def test_an_axis_moves_and_is_not_used_twice() -> None:
    kind = TensorType(F32, (4, 6)).with_placement("sp", Shard(0, Layout.even(4)))
    assert str(kind.with_placement("sp", Shard(1, Layout.even(6)))) == "f32[4, 6@sp]"
    with pytest.raises(ShardingError, match="used twice"):
        TensorType(F32, (4,), kind.dims[:1], ("sp",))


def test_two_axes_cannot_cut_one_dim_in_two_ways() -> None:
    kind = TensorType(F32, (12,)).with_placement("sp", Shard(0, Layout.even(12)))
    with pytest.raises(ShardingError, match=r"dim 0 of f32\[12@sp\] is cut as 12; axis 'tp' cannot cut it as 12/4"):
        kind.with_placement("tp", Shard(0, Layout.even(12, 4)))


def test_layout_must_cover_its_dim_and_the_dim_must_exist() -> None:
    with pytest.raises(ShardingError, match="layout 5 does not cover a dim of 4"):
        TensorType(F32, (4,)).with_placement("sp", Shard(0, Layout.even(5)))
    with pytest.raises(ShardingError, match="dim 1 does not exist"):
        TensorType(F32, (4,)).with_placement("sp", Shard(1, Layout.even(4)))


def test_bytes_are_those_of_the_whole_value() -> None:
    kind = TensorType(torch.bfloat16, (3, 5)).with_placement("sp", Shard(1, Layout.even(5)))
    assert (kind.numel, kind.nbytes) == (15, 30)
