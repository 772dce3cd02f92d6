"""An attention backend of your own, in plain PyTorch. Every model can run on it, on any number of ranks.

    python examples/my_backend.py

Ranks are processes that import this file, so its work stands under ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastvideo

BLOCK = 64


@fastvideo.register_attention_backend
class BlockedAttention(fastvideo.AttentionBackend):
    """Softmax attention in fp32, a block of queries at a time, so that memory does not grow with queries × keys."""

    name = "BLOCKED"

    def supports(self, site: fastvideo.AttentionSite) -> fastvideo.Yes | fastvideo.No:
        if site.causal:
            return fastvideo.No("causal attention is not written")
        if site.query.shape[1] != site.key.shape[1]:
            return fastvideo.No(f"{site.query.shape[1]} query heads share {site.key.shape[1]} key heads")
        return fastvideo.Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        keys, values = k.to(dtype).mT * (q.shape[-1] ** -0.5 if scale is None else scale), v.to(dtype)
        if mask is not None:
            mask = mask.expand(*q.shape[:-1], k.shape[2])
        blocks = []
        for start in range(0, q.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            scores = q[:, :, block].to(dtype) @ keys
            if mask is not None and mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask[:, :, block], -torch.inf)
            elif mask is not None:
                scores = scores + mask[:, :, block]
            blocks.append((scores.softmax(-1) @ values).to(q.dtype))
        return torch.cat(blocks, dim=2)


if __name__ == "__main__":
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=8, attention_head_dim=12, in_channels=4, out_channels=4,
                                  text_dim=16, freq_dim=32, ffn_dim=192, num_layers=2).eval()  # fmt: skip
    inputs = {"hidden_states": torch.randn(1, 4, 5, 10, 14), "timestep": torch.tensor([500]),
              "encoder_hidden_states": torch.randn(1, 10, 16), "return_dict": False}  # fmt: skip
    with fastvideo.compile(model, num_gpus=2, attention_backend="BLOCKED") as compiled:
        error = (compiled(**inputs)[0] - model(**inputs)[0]).abs().max()
        print(f"error {error:.1e}\n{compiled.explain()}")
