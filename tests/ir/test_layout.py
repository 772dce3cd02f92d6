"""A layout cuts a dim into pieces that tile it, and its algebra agrees with what tensors do."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvideo_ir import Layout, Segment
from fastvideo_ir.errors import InvalidArgumentError, ParseError
from tests.ir.strategies import layouts, periodic_layouts

small = st.integers(1, 4)


def owned(layout: Layout, splits: list[tuple[int, int]]) -> list[int]:
    return [index for low, high in layout.ranges(splits) for index in range(low, high)]


@given(layouts, st.lists(small, min_size=1, max_size=3))
def test_pieces_of_all_ranks_cover_the_dim_once(layout: Layout, parts: list[int]) -> None:
    ranks = product(*(range(count) for count in parts))
    pieces = [owned(layout, list(zip(parts, at, strict=True))) for at in ranks]
    assert sorted(index for piece in pieces for index in piece) == list(range(layout.size))


@given(layouts, small, small, st.data())
def test_an_inner_axis_cuts_the_piece_of_the_outer_one(layout: Layout, p: int, q: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, p - 1))
    inner = [owned(layout, [(p, at), (q, index)]) for index in range(q)]
    assert sorted(index for piece in inner for index in piece) == owned(layout, [(p, at)])


@given(st.integers(0, 20), small)
def test_one_even_segment_is_cut_as_tensor_split_does(size: int, parts: int) -> None:
    expected = [piece.tolist() for piece in torch.tensor_split(torch.arange(size), parts)]
    assert [owned(Layout.even(size), [(parts, index)]) for index in range(parts)] == expected


@given(layouts, small, st.data())
def test_no_piece_cuts_through_a_unit(layout: Layout, parts: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, parts - 1))
    offset = 0
    for segment, (low, high) in zip(layout.segments, layout.ranges([(parts, at)]), strict=True):
        assert (low - offset) % segment.unit == 0
        assert (high - offset) % segment.unit == 0
        offset += segment.size


def test_pieces_of_units_are_uneven_and_unpadded() -> None:
    layout = Layout.even(30 * 64, 64)
    assert [layout.local_size([(4, rank)]) for rank in range(4)] == [512, 512, 448, 448]


@given(layouts, small)
def test_largest_piece_is_that_of_the_first_rank(layout: Layout, parts: int) -> None:
    sizes = [layout.local_size([(parts, index)]) for index in range(parts)]
    assert layout.largest_piece(parts) == max(sizes) == sizes[0]


@given(layouts, small, small, st.data())
def test_scaled_cuts_a_dim_merged_with_a_minor_one(
    layout: Layout, factor: int, parts: int, data: st.DataObject
) -> None:
    at = [(parts, data.draw(st.integers(0, parts - 1)))]
    merged = torch.arange(layout.size * factor).view(layout.size, factor)
    assert owned(layout.scaled(factor), at) == merged[owned(layout, at)].flatten().tolist()


@given(layouts, small, small, st.data())
def test_tiled_cuts_a_dim_merged_with_a_major_one(layout: Layout, times: int, parts: int, data: st.DataObject) -> None:
    at = [(parts, data.draw(st.integers(0, parts - 1)))]
    merged = torch.arange(layout.size * times).view(times, layout.size)
    assert owned(layout.tiled(times), at) == merged[:, owned(layout, at)].flatten().tolist()


@given(layouts, small)
def test_divided_and_untiled_undo_scaled_and_tiled(layout: Layout, factor: int) -> None:
    assert layout.scaled(factor).divided(factor) == layout
    assert layout.tiled(factor).untiled(factor) == layout


def test_divided_and_untiled_refuse_what_no_merge_made() -> None:
    assert Layout.even(12, 2).divided(4) is None
    assert Layout((Segment(4), Segment(6))).untiled(2) is None
    assert Layout.even(12).untiled(2) is None


@given(st.lists(layouts, min_size=1, max_size=3))
def test_split_undoes_concatenated(parts: list[Layout]) -> None:
    whole = Layout.concatenated(parts)
    assert whole.split([part.size for part in parts]) == parts


def test_split_refuses_a_cut_inside_a_segment_and_sizes_that_do_not_add_up() -> None:
    layout = Layout((Segment(4), Segment(6)))
    assert layout.split([5, 5]) is None
    assert layout.split([4]) is None
    assert layout.split([4, 6, 1]) is None
    assert layout.split([4, 0, 6]) == [Layout.even(4), Layout(()), Layout.even(6)]


@given(st.one_of(layouts, periodic_layouts))
def test_text_round_trips(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout.even(105), "105"),
        (Layout.even(1920, 64), "1920/64"),
        (Layout((Segment(7), Segment(105))), "7+105"),
        (Layout.even(1920, 64).tiled(3), "3*1920/64"),
        (Layout((Segment(2), Segment(6, 3))).tiled(2), "2*(2+6/3)"),
    ],
)
def test_text_is_the_short_one(layout: Layout, text: str) -> None:
    assert str(layout) == text


@pytest.mark.parametrize("text", ["", "x", "4+", "4/", "2*", "2*(3", "4//2", "-3", "4 + 3"])
def test_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match=r"is not a layout; expected e\.g\. 105, 1920/64"):
        Layout.parse(text)


def test_unit_must_divide_the_segment() -> None:
    with pytest.raises(InvalidArgumentError, match="10 elements cannot be cut in units of 4"):
        Segment(10, 4)
