"""Ring attention: queries stay on their ranks, pieces of the keys and values go around.

A rank meets one piece after the other, computes attention to it alone, and merges what it got by the log-sum-exp of the
scores, so that the result is exact however the keys are cut. Sources: Liu, Zaharia and Abbeel, "Ring Attention with
Blockwise Transformers for Near-Infinite Context" (2023); the merge as in Dao et al., "FlashAttention" (2022).

Every attention op that can tell its log-sum-exp has three forms: itself, ``…_lse`` for one piece of the keys, and
``…_ring``, which ``localize`` turns into transfers, ``…_lse`` and ``fv.merge_attention``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..program import Stage
from .attention import RingForms, attention, attention_flop_count, empty_result, register_attention_op
from .custom import custom_op
from .registry import OpDef, registry

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None, bool], Tensor]
AttentionWithLse = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None, bool], tuple[Tensor, Tensor]]


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """What log-sum-exps, and the results that are merged by them, are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def define_ring_forms(qualified: str, whole: Attention, with_lse: AttentionWithLse) -> RingForms:
    """Make the ops ``<qualified>_lse`` and ``<qualified>_ring``.

    Args:
        qualified: ``namespace::name`` of the attention op.
        whole: attention to all keys, as that op computes it.
        with_lse: the same, and the log-sum-exp of each query's scores, ``[batch, heads, queries]`` in
            :func:`lse_dtype`; ``-inf`` and zeros for a query that sees no key.
    """

    @custom_op(f"{qualified}_lse")
    def chunk(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        if q.numel() == 0:
            return empty_result(q, v), q.new_empty(q.shape[:3], dtype=lse_dtype(q.dtype))
        out, lse = with_lse(q, k, v, mask, scale, causal)
        return out.transpose(1, 2).contiguous().transpose(1, 2), lse

    @chunk.register_fake
    def _(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        return empty_result(q, v), q.new_empty(q.shape[:3], dtype=lse_dtype(q.dtype))

    @custom_op(f"{qualified}_ring")
    def ring(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        axis: str = "",
    ) -> Tensor:
        return whole(q, k, v, mask, scale, causal)

    @ring.register_fake
    def _(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        axis: str = "",
    ) -> Tensor:
        return empty_result(q, v)

    namespace, name = qualified.split("::")
    packets = getattr(torch.ops, namespace)
    for form in ("lse", "ring"):
        register_flop_formula(getattr(packets, f"{name}_{form}"))(attention_flop_count)
    return RingForms(getattr(packets, f"{name}_lse").default, getattr(packets, f"{name}_ring").default)


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores in plain PyTorch; arguments as of :func:`attention`.

    Returns:
        ``[batch, heads, queries, value_dim]`` in the dtype of ``q``, and ``[batch, heads, queries]``.
    """
    wide = lse_dtype(q.dtype)
    groups = q.shape[1] // k.shape[1]
    keys, values = (x.to(wide).repeat_interleave(groups, 1) if groups > 1 else x.to(wide) for x in (k, v))
    scores = (q.to(wide) * (q.shape[-1] ** -0.5 if scale is None else scale)) @ keys.transpose(-2, -1)
    if causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    lse = scores.logsumexp(-1)
    weights = (scores - _finite(lse)[..., None]).exp()
    return (weights @ values).to(q.dtype), lse


def merge_attention(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two sets of keys from attention to each: ``Σ oᵢ exp(lseᵢ − lse)``, ``lse = log Σ exp(lseᵢ)``."""
    total = torch.logaddexp(lse, other_lse)
    base = _finite(total)
    merged = out * (lse - base).exp()[..., None] + other * (other_lse - base).exp()[..., None]
    return merged, total


def _finite(lse: Tensor) -> Tensor:
    """Zero for queries that saw no key yet, whose weights are all zero then."""
    return lse.masked_fill(lse == -torch.inf, 0)


# Made of plain ops, so that code generators fuse it with its neighbours.
torch.library.define(
    "fv::merge_attention", "(Tensor out, Tensor lse, Tensor other, Tensor other_lse) -> (Tensor, Tensor)"
)
torch.library.impl("fv::merge_attention", "CompositeImplicitAutograd", merge_attention)
merge_op = torch.ops.fv.merge_attention.default
registry.register(OpDef(merge_op, "fv.merge_attention", first=Stage.LOCAL))

register_attention_op(
    torch.ops.fv.attention.default,
    "fv.attention",
    define_ring_forms("fv::attention", attention, attention_with_lse),
)
