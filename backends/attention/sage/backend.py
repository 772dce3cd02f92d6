"""SAGE_ATTN: attention on 8-bit codes, by the ``sageattention`` package, FlashAttention 3 in fp8 or our own kernel.

Sources: Zhang et al., "SageAttention" (2024) and "SageAttention2" (2024): keys and values without their mean over the
tokens, codes with fine scales; Shah et al., "FlashAttention-3" (2024): the rotation that spreads outliers over the
channels. ``benchmarks/attention.py`` times and checks all of them.

What they do to the operands changes nothing in real arithmetic: a vector that is taken from all keys moves all
scores of a query alike, which softmax does not see; one that is taken from all values comes back in the result, since
weights add up to one; a rotation of queries and keys keeps their products.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import fastvideo_ir as ir

from ..base import AttentionBackend, AttentionSite, No, Support, Yes
from ..flash_attn import FlashAttention
from ..torch_sdpa import TorchSdpa
from .package import sage_package
from .reference import quantized_attention

SMALLEST_HEAD_DIM, LARGEST_HEAD_DIM, HEAD_DIM_MULTIPLE = 64, 128, 16
CAPABILITY = (8, 9)
"""The least compute capability with fp8 matrix products."""
FEWEST_KEYS = 2048
"""Fewer keys are attended to in half precision: quantizing queries would cost more than the cheaper products save."""

Implementation = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class SageAttention(AttentionBackend):
    """Attention on int8 and fp8 codes, for long sequences; cosine to exact attention at least 0.998. No masks."""

    name = "SAGE_ATTN"
    exact = False
    replayable = True

    def supports(self, site: AttentionSite) -> Support:
        if site.mask is not None:
            return No("it takes no mask")
        if site.causal:
            return No("it has no causal form")
        if site.value.shape[3] != site.head_dim:
            return No(f"values of {site.value.shape[3]} channels with keys of {site.head_dim}")
        if not SMALLEST_HEAD_DIM <= site.head_dim <= LARGEST_HEAD_DIM or site.head_dim % HEAD_DIM_MULTIPLE:
            return No(
                f"head_dim {site.head_dim} is not a multiple of {HEAD_DIM_MULTIPLE} "
                f"from {SMALLEST_HEAD_DIM} to {LARGEST_HEAD_DIM}"
            )
        if site.device == "cpu":
            return Yes() if site.dtype.is_floating_point else No(f"dtype {site.dtype} is no floating point type")
        if site.device != "cuda" or not torch.cuda.is_available():
            return No(f"it does not run on {site.device}")
        if site.dtype not in (torch.float16, torch.bfloat16):
            return No(f"dtype {site.dtype} is not float16 or bfloat16")
        found = torch.cuda.get_device_capability()
        if found < CAPABILITY and sage_package(found) is None:
            need, have = (".".join(map(str, version)) for version in (CAPABILITY, found))
            return No(f"it needs a GPU of compute capability {need} or more; this one has {have}")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        if q.device.type == "cpu":
            return self.reference(q, k, v, mask, scale, causal)
        if k.shape[2] < FEWEST_KEYS:
            return _in_half_precision(q, k, v, scale)
        return implementation(q.shape[3])(q, k, v, _scale(q, scale))

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> Tensor:
        return quantized_attention(q, k, v, _scale(q, scale))


def implementation(head_dim: int) -> Implementation:
    """What runs attention with many keys on this GPU: the package where it fits, else what was measured as fastest."""
    capability = torch.cuda.get_device_capability()
    package = sage_package(capability)
    if package is not None:
        return package
    from . import flash3, kernel  # they import Triton, which takes its time

    return flash3.attend if flash3.fits(capability, head_dim) else kernel.attend


def _in_half_precision(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    query, key, value = map(ir.TensorType.of, (q, k, v))
    site = AttentionSite(query, key, value, None, scale, False, q.device.type)
    flash = FlashAttention()
    backend: AttentionBackend = flash if isinstance(flash.supports(site), Yes) else TorchSdpa()
    return backend.run(q, k, v, None, scale, False)


def _scale(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[3]) if scale is None else scale
