"""TORCH_SDPA: ``torch.nn.functional.scaled_dot_product_attention``, which runs everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.ring import attention_with_lse

from .base import AttentionBackend, AttentionSite, No, Support, Yes


class TorchSdpa(AttentionBackend):
    """PyTorch's own dispatch between cuDNN, flash, memory-efficient and math kernels."""

    name = "TORCH_SDPA"

    def supports(self, site: AttentionSite) -> Support:
        if not site.dtype.is_floating_point:
            return No(f"dtype {site.dtype} is not a floating point type")
        if site.causal and site.mask is not None:
            return No("a causal attention with a mask as well")
        if site.ring and site.device == "cuda" and not _flash_fits(site):
            return No("on GPUs it tells a log-sum-exp for half precision, without a mask and for usual heads alone")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=gqa)

    def run_with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> tuple[Tensor, Tensor]:
        if q.device.type == "cpu":
            return attention_with_lse(q, k, v, mask, scale, causal)
        if q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        out, lse, *_ = aten._scaled_dot_product_flash_attention.default(q, k, v, 0.0, causal, scale=scale)
        return out, lse


def _flash_fits(site: AttentionSite) -> bool:
    """Whether PyTorch's flash kernel takes the site. Of its kernels it is the one that tells its log-sum-exp."""
    half, head_dim = site.dtype in (torch.float16, torch.bfloat16), site.head_dim
    return half and site.mask is None and site.value.shape[3] == head_dim and head_dim <= 256 and head_dim % 8 == 0
