"""TORCH_SDPA: ``torch.nn.functional.scaled_dot_product_attention``, which runs everywhere."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import AttentionBackend, AttentionSite, No, Support, Yes


class TorchSdpa(AttentionBackend):
    """PyTorch's own dispatch between cuDNN, flash, memory-efficient and math kernels."""

    name = "TORCH_SDPA"

    def supports(self, site: AttentionSite) -> Support:
        if not site.dtype.is_floating_point:
            return No(f"dtype {site.dtype} is not a floating point type")
        if site.causal and site.mask is not None:
            return No("a causal attention with a mask as well")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=gqa)
