"""SLIDING_TILE_ATTN as users ask for it: by name, or with options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fastvideo_ir.errors import InvalidArgumentError

from ..base import AttentionBackend, AttentionSite, No, Support, Yes
from . import windows
from .geometry import TokenGrid, Triple

CONFIG_VARIABLE = "FASTVIDEO_ATTENTION_CONFIG"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_LARGEST_HEAD_DIM = 256


@dataclass(frozen=True)
class SlidingTile(AttentionBackend):
    """Each token of a video attends to the tiles around its own, and to all text; any model, any latent shape.

    Source: Zhang et al., "Fast Video Generation with Sliding Tile Attention" (2025).

    Attributes:
        tile: tokens of a tile in time, height and width.
        window: tiles that are attended in time, height and width; one triple, or one for each head.
        config: JSON file of windows by step, layer and head; stands in for ``window``.
        grid: tokens of the video in time, height and width, for models that take packed tokens; None: as the graph
            shows.
    """

    name: ClassVar[str] = "SLIDING_TILE_ATTN"
    exact: ClassVar[bool] = False
    partial: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    tile: Triple = (6, 8, 8)
    window: Triple | Sequence[Triple] = (3, 3, 3)
    config: str | None = None
    grid: Triple | None = None

    def __post_init__(self) -> None:
        if not windows.is_triple(self.tile):
            raise InvalidArgumentError(f"tile={self.tile!r}; expected three positive whole numbers, e.g. (6, 8, 8)")
        if self.grid is not None and not windows.is_triple(self.grid):
            raise InvalidArgumentError(f"grid={self.grid!r}; expected three positive whole numbers, e.g. (21, 30, 52)")
        several = isinstance(self.window, (tuple, list)) and self.window and all(map(windows.is_triple, self.window))
        if not windows.is_triple(self.window) and not several:
            raise InvalidArgumentError(
                f"window={self.window!r}; expected three positive whole numbers, e.g. (3, 3, 3), or such for each head"
            )

    def configured(self, environment: Mapping[str, str]) -> SlidingTile:
        """With the file that ``FASTVIDEO_ATTENTION_CONFIG`` names, where no file is given. The file is checked.

        Raises:
            InvalidArgumentError: the file is not there, or is no file of windows.
        """
        done = replace(self, config=self.config or environment.get(CONFIG_VARIABLE) or None)
        if done.config is not None:
            windows.read(Path(done.config))
        return done

    def schedule(self, layers: int, heads: int) -> windows.WindowSchedule:
        """The windows of a model of so many attentions over the grid.

        Raises:
            InvalidArgumentError: the windows are for another model.
        """
        if self.config is None:
            return windows.uniform(self.window, layers, heads)
        found = windows.read(Path(self.config))
        windows.check_fits(found, layers, heads)
        return found

    def supports(self, site: AttentionSite) -> Support:
        """No: sites over a token grid are rewritten by ``sliding-tile-attention``; this one is what is left."""
        return No(
            "it is not an attention over the token grid"
            if site.is_self_attention
            else "its keys are not the tokens of its queries"
        )

    def supports_grid(self, site: AttentionSite, tokens: TokenGrid) -> Support:
        """Whether the kernel can run ``site``, whose tokens are ``tokens``."""
        if site.ring:
            return No("its tokens must be whole, and a ring keeps them on their ranks")
        if site.mask is not None and (site.mask.shape[-1] != tokens.length or site.mask.numel != _keys_only(site)):
            return No(f"its mask {site.mask} is not one of keys alone")
        if site.scale is not None and site.scale <= 0:
            return No(f"its scale {site.scale} is not positive")
        if site.device == "cuda":
            if site.dtype not in _DTYPES:
                return No(f"dtype {site.dtype} is not float16, bfloat16 or float32")
            if max(site.head_dim, site.value.shape[3]) > _LARGEST_HEAD_DIM:
                return No(f"head_dim {site.head_dim} is larger than {_LARGEST_HEAD_DIM}")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        raise InvalidArgumentError("SLIDING_TILE_ATTN needs a token grid; it runs as fv_attn.sliding_tile_attn")


def _keys_only(site: AttentionSite) -> int:
    """Elements of a mask that has rows of keys for the batch at most."""
    assert site.mask is not None
    shape = (1,) * (4 - len(site.mask.shape)) + site.mask.shape
    return shape[0] * shape[3]
