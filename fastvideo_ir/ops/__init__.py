"""What the compiler knows of each op, one file a kind."""

from . import (  # noqa: F401  (they register)
    attention,
    conv,
    create,
    index,
    matmul,
    norm,
    pointwise,
    reduce,
    restricted_attention,
    ring,
    shape,
    slicing,
    transform,
    window,
)
from .registry import OpDef, OpRegistry, RankView, Trait, has_trait, of, registry, target_name

__all__ = [
    "OpDef",
    "OpRegistry",
    "RankView",
    "Trait",
    "has_trait",
    "of",
    "registry",
    "target_name",
]
