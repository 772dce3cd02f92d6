"""For authors of models who want to say which attention backends may run an attention; nobody else needs this."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo_ir as ir

from .backends import attention as backends


class Backend(enum.StrEnum):
    """The attention backends that come with the project, by name."""

    TORCH_SDPA = "TORCH_SDPA"
    FLASH_ATTN = "FLASH_ATTN"
    SLIDING_TILE_ATTN = "SLIDING_TILE_ATTN"
    SAGE_ATTN = "SAGE_ATTN"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    supported_backends: Sequence[str] | None = None,
) -> Tensor:
    """``F.scaled_dot_product_attention``, of which a compiled model runs one of ``supported_backends``.

    Args:
        q: ``[batch, heads, queries, head_dim]``.
        k: ``[batch, kv_heads, keys, head_dim]``; ``heads`` is a multiple of ``kv_heads``.
        v: ``[batch, kv_heads, keys, value_dim]``.
        attn_mask: boolean (True: attend) or additive, broadcastable to ``[batch, heads, queries, keys]``.
        is_causal: query i sees the keys up to i.
        scale: factor of the scores; ``head_dim ** -0.5`` where None.
        supported_backends: names of backends, or :class:`Backend`; None allows all. Of the exact ones the fastest is
            taken; an approximate one runs where the user of the model asks for it. Not compiled, PyTorch's own runs.

    Returns:
        ``[batch, heads, queries, value_dim]``.

    Raises:
        UnknownNameError: there is no such backend.
    """
    if supported_backends is None:
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=gqa)
    names = [backends.named(str(name)).name for name in supported_backends]
    result: Tensor = ir.ops.restricted_attention.among_op(q, k, v, attn_mask, scale, is_causal, ",".join(names))
    return result


class DistributedAttention(nn.Module):
    """Multi-head self-attention, written for one device; a compiled model divides it as it does any other.

    Args:
        dim: channels of the tokens.
        num_heads: heads.
        head_dim: channels of a head; ``dim / num_heads`` where None.
        supported_attention_backends: as of :func:`attention`.

    Raises:
        InvalidArgumentError: ``dim`` is no multiple of ``num_heads`` and no ``head_dim`` is given.
        UnknownNameError: there is no such backend.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        supported_attention_backends: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ir.errors.InvalidArgumentError(
                f"dim={dim} is no multiple of num_heads={num_heads}", hint="give head_dim"
            )
        inner = num_heads * (head_dim or dim // num_heads)
        names = supported_attention_backends
        self.num_heads = num_heads
        self.supported_backends = None if names is None else tuple(backends.named(str(name)).name for name in names)
        self.to_qkv = nn.Linear(dim, 3 * inner)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: ``[batch, tokens, dim]``.
            attention_mask: as ``attn_mask`` of :func:`attention`.
        """
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(q, k, v, attention_mask, supported_backends=self.supported_backends)
        projected: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return projected
