"""TORCH_SDPA: ``torch.nn.functional.scaled_dot_product_attention``, which runs everywhere, and its kernels one by one.

PyTorch picks one of its kernels by an order of its own, whatever the shape. On GPUs they are candidates by themselves,
for a choice that is measured.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastvideo_ir.ops.attention import is_lengths
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.ring import attention_with_lse

from .base import AttentionBackend, AttentionSite, No, Support, Yes


class TorchSdpa(AttentionBackend):
    """PyTorch's own dispatch between cuDNN, flash, memory-efficient and math kernels."""

    name = "TORCH_SDPA"
    takes_lengths = True
    replayable = True

    def supports(self, site: AttentionSite) -> Support:
        if not site.dtype.is_floating_point:
            return No(f"dtype {site.dtype} is not a floating point type")
        if site.causal and site.mask is not None:
            return No("a causal attention with a mask as well")
        if site.lengths is not None and (site.causal or (site.device == "cuda" and not _flash_fits(site))):
            return No("on GPUs it takes lengths of keys in half precision, and nowhere in causal attention")
        if site.ring and site.device == "cuda" and not _flash_fits(site):
            return No("on GPUs it tells a log-sum-exp for half precision, without a mask and for usual heads alone")
        return Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        if mask is not None and is_lengths(mask):
            return _on_cuda(q, k, v, mask, scale) if q.is_cuda else _row_by_row(q, k, v, mask, scale)
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


class _OneKernel(TorchSdpa):
    """One of PyTorch's kernels, on GPUs. ``auto`` takes it only where it was measured."""

    takes_lengths = False
    kernel: ClassVar[SDPBackend]

    def supports(self, site: AttentionSite) -> Support:
        if site.device != "cuda":
            return No(f"it does not run on {site.device}")
        answer = super().supports(site)
        return answer if isinstance(answer, No) else Yes(preferred=False)

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        if not q.is_cuda:  # the op can be called anywhere, as those of all backends
            return super().run(q, k, v, mask, scale, causal)
        with sdpa_kernel(self.kernel):
            return super().run(q, k, v, mask, scale, causal)


class SdpaCudnn(_OneKernel):
    """cuDNN's kernel in PyTorch. GPUs, half precision."""

    name = "SDPA_CUDNN"
    kernel = SDPBackend.CUDNN_ATTENTION

    def supports(self, site: AttentionSite) -> Support:
        if site.dtype not in (torch.float16, torch.bfloat16):
            return No(f"dtype {site.dtype} is not float16 or bfloat16")
        return super().supports(site)


class SdpaFlash(_OneKernel):
    """FlashAttention 2 in PyTorch. GPUs, half precision; no masks."""

    name = "SDPA_FLASH"
    kernel = SDPBackend.FLASH_ATTENTION

    def supports(self, site: AttentionSite) -> Support:
        if not _flash_fits(site):
            return No("it takes half precision, no mask, and heads of a multiple of 8 up to 256 alone")
        return super().supports(site)


class SdpaEfficient(_OneKernel):
    """The memory-efficient kernel in PyTorch. GPUs; no grouped heads."""

    name = "SDPA_EFFICIENT"
    kernel = SDPBackend.EFFICIENT_ATTENTION

    def supports(self, site: AttentionSite) -> Support:
        if site.dtype is torch.float64 or site.query.shape[1] != site.key.shape[1]:
            return No("it takes neither float64 nor grouped heads")
        return super().supports(site)


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float | None) -> Tensor:
    """Attention of each row to its own first keys, and no work for the others."""
    gqa = q.shape[1] != k.shape[1]
    rows = enumerate(lengths.tolist())
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                q[r, None], k[r, None, :, :n], v[r, None, :, :n], scale=scale, enable_gqa=gqa
            )
            for r, n in rows
        ]
    )


def _on_cuda(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float | None) -> Tensor:
    """PyTorch's flash kernel in its variable-length form: rows lie end to end, and of each the first keys are read."""
    batch, _, queries, _ = q.shape
    keys = k.shape[2]
    flat_q, flat_k, flat_v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    starts = torch.arange(batch + 1, dtype=torch.int32, device=q.device)
    out, *_ = aten._flash_attention_forward.default(
        flat_q, flat_k, flat_v, starts * queries, starts * keys, queries, keys, 0.0, False, False,
        scale=scale, seqused_k=lengths,
    )  # fmt: skip
    result: Tensor = out.unflatten(0, (batch, queries)).transpose(1, 2)
    return result


def _flash_fits(site: AttentionSite) -> bool:
    """Whether PyTorch's flash kernel takes the site. Of its kernels it is the one that tells its log-sum-exp."""
    half, head_dim = site.dtype in (torch.float16, torch.bfloat16), site.head_dim
    return half and site.mask is None and site.value.shape[3] == head_dim and head_dim <= 256 and head_dim % 8 == 0
