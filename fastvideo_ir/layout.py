"""How one dim is cut into pieces.

A layout is a row of segments. Rank r of P owns the r-th piece of every segment, one behind the other. A segment of
``size`` elements with unit ``u`` is cut like ``torch.tensor_split(range(size // u), P)``, times ``u``: pieces may be
uneven, and nothing is padded.

Units express merged dims (30 heads of 64 stay whole: ``1920/64``). Segments express concatenated ones: text and video
tokens in one sequence (``256+4096``), a fused QKV projection (``3*1920/64``). With them ``cat``, ``chunk``, ``slice``
and ``reshape`` stay local on sharded values where a single even split would need an exchange.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .errors import InvalidArgumentError, ParseError

Range = tuple[int, int]
"""Half-open index range ``[start, stop)`` of a dim."""


@dataclass(frozen=True, slots=True)
class Segment:
    """``size`` consecutive elements that are cut in multiples of ``unit``."""

    size: int
    unit: int = 1

    def __post_init__(self) -> None:
        if self.size < 0 or self.unit < 1 or self.size % self.unit:
            raise InvalidArgumentError(f"a segment of {self.size} elements cannot be cut in units of {self.unit}")


def split_units(start: int, stop: int, parts: int, index: int) -> Range:
    """The ``index``-th of ``parts`` pieces of ``[start, stop)``, cut as ``torch.tensor_split`` does."""
    quotient, remainder = divmod(stop - start, parts)
    low = start + index * quotient + min(index, remainder)
    return low, low + quotient + (index < remainder)


@dataclass(frozen=True, slots=True)
class Layout:
    """The segments of one dim, in order. Adjacent zero-length segments are not allowed; sizes add up to the dim."""

    segments: tuple[Segment, ...]

    @staticmethod
    def even(size: int, unit: int = 1) -> Layout:
        """One segment over the whole dim."""
        return Layout((Segment(size, unit),))

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    def ranges(self, splits: Sequence[tuple[int, int]]) -> tuple[Range, ...]:
        """Index ranges that one rank owns, one per segment.

        Args:
            splits: ``(parts, index)`` per mesh axis that shards the dim, outermost first; each cuts the piece that
                the one before it left.
        """
        return _ranges(self, tuple(splits))

    def local_size(self, splits: Sequence[tuple[int, int]]) -> int:
        """Number of elements that one rank owns."""
        return sum(stop - start for start, stop in self.ranges(splits))

    def largest_piece(self, parts: int) -> int:
        """Elements of the largest piece when cut over one axis of ``parts`` ranks."""
        return sum(-(-(s.size // s.unit) // parts) * s.unit for s in self.segments)

    def scaled(self, factor: int) -> Layout:
        """The layout of the dim merged with a minor dim of ``factor`` elements."""
        return Layout(tuple(Segment(s.size * factor, s.unit * factor) for s in self.segments))

    def tiled(self, times: int) -> Layout:
        """The layout of the dim merged with a major dim of ``times`` elements."""
        return Layout(self.segments * times)

    def divided(self, factor: int) -> Layout | None:
        """Inverse of :meth:`scaled`, or None where a piece would cut through the minor dim."""
        if any(s.unit % factor for s in self.segments):
            return None
        return Layout(tuple(Segment(s.size // factor, s.unit // factor) for s in self.segments))

    def untiled(self, times: int) -> Layout | None:
        """Inverse of :meth:`tiled`, or None where the segments are no ``times``-fold repetition."""
        count, rest = divmod(len(self.segments), times)
        if rest or self.segments[:count] * times != self.segments:
            return None
        return Layout(self.segments[:count])

    def split(self, sizes: Sequence[int]) -> list[Layout] | None:
        """Cut the row of segments into consecutive layouts of ``sizes``, or None where a cut falls inside one."""
        result: list[Layout] = []
        rest = list(self.segments)
        for size in sizes:
            taken: list[Segment] = []
            while size > 0 and rest and rest[0].size <= size:
                size -= rest[0].size
                taken.append(rest.pop(0))
            if size:
                return None
            result.append(Layout(tuple(taken)))
        return None if rest else result

    @staticmethod
    def concatenated(layouts: Sequence[Layout]) -> Layout:
        return Layout(tuple(segment for layout in layouts for segment in layout.segments))

    def __str__(self) -> str:
        if len(self.segments) == 1:
            return _segment_text(self.segments[0])
        for period in range(1, len(self.segments)):
            times = len(self.segments) // period
            if times > 1 and self.untiled(times) is not None and len(self.segments) % period == 0:
                inner = "+".join(_segment_text(s) for s in self.segments[:period])
                return f"{times}*({inner})" if period > 1 else f"{times}*{inner}"
        return "+".join(_segment_text(s) for s in self.segments)

    @staticmethod
    def parse(text: str) -> Layout:
        """Inverse of ``str``."""
        match = re.fullmatch(r"(\d+)\*(?:\((.+)\)|([^()+]+))", text)
        if match:
            return Layout.parse(match[2] or match[3]).tiled(int(match[1]))
        segments = []
        for part in text.split("+"):
            number = re.fullmatch(r"(\d+)(?:/(\d+))?", part)
            if not number:
                raise ParseError(f"{text!r} is not a layout; expected e.g. 105, 1920/64, 7+105 or 3*1920/64")
            segments.append(Segment(int(number[1]), int(number[2] or 1)))
        return Layout(tuple(segments))


def _segment_text(segment: Segment) -> str:
    return str(segment.size) if segment.unit == 1 else f"{segment.size}/{segment.unit}"


@lru_cache(maxsize=65536)
def _ranges(layout: Layout, splits: tuple[tuple[int, int], ...]) -> tuple[Range, ...]:
    result = []
    offset = 0
    for segment in layout.segments:
        low, high = 0, segment.size // segment.unit
        for parts, index in splits:
            low, high = split_units(low, high, parts, index)
        result.append((offset + low * segment.unit, offset + high * segment.unit))
        offset += segment.size
    return tuple(result)
