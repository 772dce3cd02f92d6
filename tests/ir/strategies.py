"""Hypothesis strategies for layouts, meshes and placed types."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from fastvideo_ir import Layout, Mesh, Partial, Placement, Replicate, Segment, Shard, TensorType
from fastvideo_ir.errors import ShardingError
from fastvideo_ir.types import DTYPE_NAMES

AXES = ("sp", "tp")

segments = st.builds(lambda units, unit: Segment(units * unit, unit), st.integers(1, 7), st.integers(1, 4))
layouts = st.lists(segments, min_size=1, max_size=4).map(lambda parts: Layout(tuple(parts)))
periodic_layouts = st.builds(lambda layout, times: layout.tiled(times), layouts, st.integers(1, 3))
meshes = st.one_of(
    st.builds(lambda p: Mesh((("sp", p),)), st.integers(1, 4)),
    st.builds(lambda p, q: Mesh((("sp", p), ("tp", q))), st.integers(1, 3), st.integers(1, 3)),
)


@st.composite
def layouts_of(draw: st.DrawFn, size: int) -> Layout:
    """A layout of a dim of ``size``: one to three segments, with units that divide them."""
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=2))) if size > 1 else []
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, size], strict=True)]
    return Layout(tuple(Segment(part, draw(st.sampled_from(_divisors(part)))) for part in parts))


def _divisors(size: int) -> list[int]:
    return [unit for unit in range(1, size + 1) if size % unit == 0] or [1]


@st.composite
def placements(draw: st.DrawFn, kind: TensorType, *, partial: bool = True) -> Placement:
    """A placement for one more axis of ``kind``; a dim that is sharded already keeps its layout."""
    choices: list[Placement] = [Replicate(), *([Partial()] if partial else [])]
    for dim, (size, sharding) in enumerate(zip(kind.shape, kind.dims, strict=True)):
        choices.append(Shard(dim, sharding.layout if sharding else draw(layouts_of(size))))
    return draw(st.sampled_from(choices))


@st.composite
def placed_types(draw: st.DrawFn, axes: tuple[str, ...] = AXES, dtype: torch.dtype | None = None) -> TensorType:
    """A type with every axis placed, two axes on one dim among them."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    kind = TensorType(dtype or draw(st.sampled_from(list(DTYPE_NAMES))), shape)
    for axis in draw(st.permutations(axes)):
        try:
            kind = kind.with_placement(axis, draw(placements(kind)))
        except ShardingError:
            continue
    return kind
