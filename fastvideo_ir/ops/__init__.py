"""What the compiler knows of each op, one file a kind."""

from . import attention, conv, create, index, matmul, norm, pointwise, reduce, ring, shape, slicing, transform, window  # noqa: F401  (they register)
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
