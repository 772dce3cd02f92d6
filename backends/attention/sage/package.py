"""The ``sageattention`` package, where it is right for the GPU."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from torch import Tensor

_OLDEST = (2, 1)
"""Version 1 has Triton kernels alone, which are slower than FlashAttention 3 in half precision where that runs."""
_CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
"""Those that its kernels are built for; it raises on others."""


@lru_cache(maxsize=1)
def sage_package(capability: tuple[int, int]) -> Callable[[Tensor, Tensor, Tensor, float], Tensor] | None:
    """Its attention on ``[batch, heads, tokens, channels]``; None where it is missing, too old or not for this GPU."""
    if capability not in _CAPABILITIES or find_spec("sageattention") is None:
        return None
    version = importlib.metadata.version("sageattention").split(".")
    if tuple(int(part) for part in version[:2] if part.isdigit()) < _OLDEST:
        return None
    sageattn: Any = importlib.import_module("sageattention").sageattn

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out: Tensor = sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=scale)
        return out

    return attend
