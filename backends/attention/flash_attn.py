"""FLASH_ATTN: FlashAttention 3, 4 or 2, whichever package is installed and fits the GPU; on the CPU torch's own.

Sources: Dao, "FlashAttention-2" (2023); Shah et al., "FlashAttention-3" (2024). Packages asked, in this order:
``flash_attn_interface`` (FlashAttention 3), ``fa3_fwd_interface`` (its forward kernels as a wheel), ``flash_attn.cute``
(4, for the GPUs after Hopper), ``flash_attn.flash_attn_interface`` (2).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fastvideo_ir.ops.ring import attention_with_lse

from .base import AttentionBackend, AttentionSite, No, Support, Yes


@dataclass(frozen=True)
class _Package:
    """One package that has ``flash_attn_func``, and the compute capabilities that its kernels are built for."""

    module: str
    lowest: tuple[int, int]
    highest: tuple[int, int]
    wheel: str = ""

    def fits(self, capability: tuple[int, int]) -> bool:
        return self.lowest <= capability <= self.highest


_PACKAGES = (
    _Package("flash_attn_interface", (9, 0), (9, 9)),
    _Package("fa3_fwd_interface", (9, 0), (9, 9), "fa3-fwd"),
    _Package("flash_attn.cute", (10, 0), (11, 9), "flash-attn-4"),
    _Package("flash_attn.flash_attn_interface", (8, 0), (12, 9), "flash-attn --no-build-isolation"),
)
_LARGEST_HEAD_DIM = 256


@lru_cache(maxsize=2)
def _kernel(function: str = "flash_attn_func") -> Callable[..., Any] | None:
    """A function of the first package that is installed and fits this GPU."""
    capability = torch.cuda.get_device_capability()
    for package in _PACKAGES:
        if package.fits(capability) and _is_installed(package.module):
            found: Callable[..., Any] | None = getattr(importlib.import_module(package.module), function, None)
            return found
    return None


_OF_FIRST_KEYS = "flash_attn_with_kvcache"
"""The function of the packages that reads as many keys of each row as it is told; the rest of a cache is unused."""


def _is_installed(module: str) -> bool:
    """Whether ``module`` can be imported; its parents are, to find out."""
    parent = module.rpartition(".")[0]
    return (not parent or find_spec(parent) is not None) and find_spec(module) is not None


class FlashAttention(AttentionBackend):
    """Exact attention in tiles that never leave the chip. Half precision on GPUs; lengths of keys, no other masks."""

    name = "FLASH_ATTN"
    takes_lengths = True
    replayable = True

    def supports(self, site: AttentionSite) -> Support:
        if site.mask is not None:
            return No("it takes no mask")
        if site.causal and (site.lengths is not None or not site.is_self_attention):
            return No("causal attention with other lengths of queries and keys is aligned differently there")
        if site.device == "cpu":
            return Yes(preferred=False)  # through the reference, for tests without a GPU
        if site.device != "cuda" or not torch.cuda.is_available():
            return No(f"it does not run on {site.device}")
        if site.dtype not in (torch.float16, torch.bfloat16):
            return No(f"dtype {site.dtype} is not float16 or bfloat16")
        if site.value.shape[3] != site.head_dim or site.head_dim > _LARGEST_HEAD_DIM or site.head_dim % 8:
            return No(f"head_dim {site.head_dim} (values {site.value.shape[3]}) is not a multiple of 8 up to 256")
        if _kernel() is None:
            major, minor = torch.cuda.get_device_capability()
            fitting = [package for package in _PACKAGES if package.fits((major, minor))]
            names = ", ".join(package.module for package in fitting)
            return No(
                f"no package for compute capability {major}.{minor} is installed (any of: {names or 'none known'})",
                next((f"pip install {package.wheel}" for package in fitting if package.wheel), ""),
            )
        if site.lengths is not None and _kernel(_OF_FIRST_KEYS) is None:
            return No(f"the package that is installed has no {_OF_FIRST_KEYS}, which takes lengths of keys")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        if q.device.type == "cpu":
            return self.reference(q, k, v, mask, scale, causal)
        kernel = _kernel() if mask is None else _kernel(_OF_FIRST_KEYS)
        assert kernel is not None, "supports() said yes"
        lengths = {} if mask is None else {"cache_seqlens": mask, "num_splits": 1}
        out = kernel(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale, causal=causal, **lengths)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result.transpose(1, 2)

    def run_with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> tuple[Tensor, Tensor]:
        if q.device.type == "cpu":
            return attention_with_lse(q, k, v, mask, scale, causal)
        kernel = _kernel()
        assert kernel is not None, "supports() said yes"
        # Packages differ: some return the log-sum-exp always, the others where they are asked for their internals.
        known = inspect.signature(kernel).parameters
        wish = {name: True for name in ("return_attn_probs", "return_lse") if name in known}
        out, lse, *_ = kernel(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale, causal=causal, **wish)
        return out.transpose(1, 2), lse
