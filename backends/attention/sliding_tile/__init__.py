"""Sliding tile attention: the definition, its kernels, the op, and what users ask for."""

from .backend import CONFIG_VARIABLE, SlidingTile
from .geometry import Tiling, TokenGrid, Triple
from .measure import window_errors_op
from .op import sliding_tile_op, tile_order_op
from .windows import WindowSchedule

__all__ = [
    "CONFIG_VARIABLE",
    "SlidingTile",
    "Tiling",
    "TokenGrid",
    "Triple",
    "WindowSchedule",
    "sliding_tile_op",
    "tile_order_op",
    "window_errors_op",
]
