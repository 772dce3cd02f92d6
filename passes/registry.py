"""Passes by name: the built-in ones, and those that others have registered."""

from __future__ import annotations

import re

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError

from .cache_blocks import CacheBlocks
from .canonicalize import Canonicalize
from .choose_mesh import ChooseMesh
from .eliminate_mask import EliminateMask
from .expand_statistics import ExpandStatistics
from .fold_padding import FoldPadding
from .fuse_cat_linear import FuseCatLinear
from .fuse_linear_gelu import FuseLinearGelu
from .fuse_modulated_norm import FuseModulatedNorm
from .fuse_norm_rotary import FuseNormRotary
from .insert_reshards import InsertReshards
from .join_slices import JoinSlices
from .lower_reshards import LowerReshards
from .mark_skippable import MarkSkippable
from .measure_windows import MeasureWindows
from .offload_params import OffloadParams
from .pack_collectives import PackCollectives
from .plan_sharding import PlanSharding
from .quantize_linear import QuantizeLinear
from .recognize_attention import RecognizeAttention
from .select_attention_backend import SelectAttentionBackend
from .shard_params import ShardParams
from .sliding_tile_attention import SlidingTileAttention
from .split_invariant import SplitInvariant
from .tile_order import TileOrder

DEFAULT = "default"
"""What pipelines call the written list; no pass can have this name."""

BUILT_IN: tuple[type[ir.Pass], ...] = (
    Canonicalize,
    RecognizeAttention,
    EliminateMask,
    MeasureWindows,
    SlidingTileAttention,
    TileOrder,
    SelectAttentionBackend,
    QuantizeLinear,
    FuseLinearGelu,
    FoldPadding,
    CacheBlocks,
    ChooseMesh,
    PlanSharding,
    InsertReshards,
    ExpandStatistics,
    LowerReshards,
    PackCollectives,
    JoinSlices,
    FuseCatLinear,
    FuseNormRotary,
    FuseModulatedNorm,
    SplitInvariant,
    ShardParams,
    OffloadParams,
    MarkSkippable,
)
_registered: dict[str, type[ir.Pass]] = {}


def register_pass(step: type[ir.Pass]) -> type[ir.Pass]:
    """Make a pass known by its ``name``, for ``passes="default,<name>"``. May be used as a decorator.

    Raises:
        InvalidArgumentError: it is no pass, has no name or one that a pipeline cannot hold, or the name is taken.
    """
    if not (isinstance(step, type) and issubclass(step, ir.Pass)):
        raise InvalidArgumentError(f"{step!r} is not a subclass of fastvideo.Pass")
    name = getattr(step, "name", None)
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"pass {step.__name__} has no name", hint="set the class attribute 'name'")
    if name == DEFAULT or not re.fullmatch(r"\w[\w-]*", name):
        raise InvalidArgumentError(
            f"{name!r} cannot be the name of a pass", hint="use letters, digits and hyphens, e.g. 'my-pass'"
        )
    if _registered.get(name, step) is not step or name in {built_in.name for built_in in BUILT_IN}:
        raise InvalidArgumentError(f"a pass called {name!r} is registered already")
    _registered[name] = step
    return step


def known_passes() -> dict[str, type[ir.Pass]]:
    """All passes that a pipeline may name, built-in ones first."""
    return {step.name: step for step in BUILT_IN} | _registered
