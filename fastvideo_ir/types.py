"""Types of values: dtype, global shape and placement, e.g. ``bf16[1, 75600@sp, 5120]{sum:tp}``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import torch

from .errors import ParseError, ShardingError
from .layout import Layout, Range
from .mesh import Coordinates, Mesh

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint64: "u64",
    torch.bool: "bool",
    torch.complex32: "c32",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
DTYPES_BY_NAME = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank of the axis holds the whole value."""


@dataclass(frozen=True, slots=True)
class Shard:
    """``dim`` is cut over the axis as ``layout`` says."""

    dim: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Partial:
    """The value is the sum of what the ranks of the axis hold."""


Placement: TypeAlias = Replicate | Shard | Partial
"""Where a value lives along *one* mesh axis."""


@dataclass(frozen=True, slots=True)
class DimSharding:
    """``axes`` cut one dim, outermost first; they share its layout."""

    axes: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one tensor.

    Attributes:
        dtype: element type.
        shape: global shape, whatever the placement.
        dims: per dim, how it is sharded; None where it is whole.
        partial: mesh axes over which the value is a partial sum.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    dims: tuple[DimSharding | None, ...] = ()
    partial: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.dims:
            object.__setattr__(self, "dims", (None,) * len(self.shape))
        if len(self.dims) != len(self.shape):
            raise ShardingError(f"a type of {len(self.shape)} dims has {len(self.dims)} placements")
        axes = [axis for dim in self.dims if dim for axis in dim.axes] + list(self.partial)
        if len(set(axes)) != len(axes):
            raise ShardingError(f"a mesh axis is used twice in {self}")
        for size, dim in zip(self.shape, self.dims, strict=True):
            if dim and dim.layout.size != size:
                raise ShardingError(f"layout {dim.layout} does not cover a dim of {size} in {self}")

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorType:
        """The unplaced type of a tensor."""
        return TensorType(tensor.dtype, tuple(int(size) for size in tensor.shape))

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole value."""
        return self.numel * self.dtype.itemsize

    @property
    def placed_axes(self) -> frozenset[str]:
        """Axes along which the value is not replicated."""
        return frozenset(axis for dim in self.dims if dim for axis in dim.axes) | frozenset(self.partial)

    @property
    def unplaced(self) -> TensorType:
        """The same value, replicated everywhere."""
        return TensorType(self.dtype, self.shape)

    def placement(self, axis: str) -> Placement:
        """Where the value lives along ``axis``."""
        if axis in self.partial:
            return Partial()
        for index, dim in enumerate(self.dims):
            if dim and axis in dim.axes:
                return Shard(index, dim.layout)
        return Replicate()

    def with_placement(self, axis: str, placement: Placement) -> TensorType:
        """The type with ``axis`` placed anew; a new axis on a dim becomes its innermost one.

        Raises:
            ShardingError: the dim is already sharded with another layout, or does not exist.
        """
        dims = [_without(dim, axis) for dim in self.dims]
        partial = tuple(name for name in self.partial if name != axis)
        if isinstance(placement, Partial):
            partial = tuple(sorted((*partial, axis)))
        elif isinstance(placement, Shard):
            if not 0 <= placement.dim < len(dims):
                raise ShardingError(f"dim {placement.dim} does not exist in {self}")
            old = dims[placement.dim]
            if old and old.layout != placement.layout:
                raise ShardingError(
                    f"dim {placement.dim} of {self} is cut as {old.layout}; "
                    f"axis {axis!r} cannot cut it as {placement.layout}"
                )
            dims[placement.dim] = DimSharding((*(old.axes if old else ()), axis), placement.layout)
        return replace(self, dims=tuple(dims), partial=partial)

    def local_ranges(self, dim: int, mesh: Mesh, at: Coordinates) -> tuple[Range, ...]:
        """Global index ranges of ``dim`` that the rank at ``at`` owns, in the order in which it stores them."""
        sharding = self.dims[dim]
        if sharding is None:
            return ((0, self.shape[dim]),)
        return sharding.layout.ranges([(mesh.size(axis), at[axis]) for axis in sharding.axes])

    def local_shape(self, mesh: Mesh, at: Coordinates) -> tuple[int, ...]:
        """Shape of the piece that the rank at ``at`` holds."""
        return tuple(
            sum(stop - start for start, stop in self.local_ranges(dim, mesh, at)) for dim in range(len(self.shape))
        )

    def __str__(self) -> str:
        dims = ", ".join(_dim_text(size, dim) for size, dim in zip(self.shape, self.dims, strict=True))
        partial = "{sum:" + ",".join(self.partial) + "}" if self.partial else ""
        return f"{DTYPE_NAMES[self.dtype]}[{dims}]{partial}"


@dataclass(frozen=True, slots=True)
class TupleType:
    """The type of an op with several results; None stands for a result that is absent."""

    elements: tuple[TensorType | None, ...]

    def __str__(self) -> str:
        return "(" + ", ".join("none" if e is None else str(e) for e in self.elements) + ")"


ValueType: TypeAlias = TensorType | TupleType


def tensor_types(value_type: ValueType | None) -> tuple[TensorType, ...]:
    """The tensors inside a type, in order."""
    if value_type is None:
        return ()
    if isinstance(value_type, TensorType):
        return (value_type,)
    return tuple(element for element in value_type.elements if element is not None)


def local_slice(tensor: torch.Tensor, value_type: TensorType, mesh: Mesh, at: Coordinates) -> torch.Tensor:
    """The piece of a whole tensor that the rank at ``at`` owns. A view where one range covers it.

    A partial sum is held by the first rank of its axis; the others hold zeros.
    """
    for dim, sharding in enumerate(value_type.dims):
        if sharding is None:
            continue
        pieces = [tensor.narrow(dim, low, high - low) for low, high in value_type.local_ranges(dim, mesh, at)]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    if any(at[axis] for axis in value_type.partial):
        return torch.zeros_like(tensor)
    return tensor


def _without(dim: DimSharding | None, axis: str) -> DimSharding | None:
    if dim is None or axis not in dim.axes:
        return dim
    axes = tuple(name for name in dim.axes if name != axis)
    return DimSharding(axes, dim.layout) if axes else None


def _dim_text(size: int, dim: DimSharding | None) -> str:
    return str(size) if dim is None else f"{dim.layout}@{'.'.join(dim.axes)}"


@lru_cache(maxsize=65536)
def parse_type(text: str) -> ValueType:
    """Inverse of ``str`` for :class:`TensorType` and :class:`TupleType`.

    Raises:
        ParseError: the text is no type.
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        return TupleType(tuple(_parse_element(part) for part in _split_types(text[1:-1])))
    match = re.fullmatch(r"(\w+)\[(.*)\](?:\{sum:([\w,]+)\})?", text)
    if not match or match[1] not in DTYPES_BY_NAME:
        raise ParseError(f"{text!r} is not a type; expected e.g. bf16[1, 105@sp, 96]")
    shape: list[int] = []
    dims: list[DimSharding | None] = []
    for part in (p.strip() for p in match[2].split(",") if p.strip()):
        layout_text, _, axes = part.partition("@")
        layout = Layout.parse(layout_text)
        shape.append(layout.size)
        dims.append(DimSharding(tuple(axes.split(".")), layout) if axes else None)
    partial = tuple(sorted(match[3].split(","))) if match[3] else ()
    return TensorType(DTYPES_BY_NAME[match[1]], tuple(shape), tuple(dims), partial)


def _parse_element(text: str) -> TensorType | None:
    if text.strip() == "none":
        return None
    result = parse_type(text)
    if not isinstance(result, TensorType):
        raise ParseError(f"{text!r}: a tuple type cannot hold a tuple")
    return result


def _split_types(text: str) -> Iterable[str]:
    depth, start = 0, 0
    for index, char in enumerate(text):
        depth += (char in "[({") - (char in "])}")
        if char == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    if text[start:].strip():
        yield text[start:]
