"""``fv.attention`` and the rule that every attention op shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

from ..factors import DimExpr, FactorRule, RuleBuilder, Travel, product
from ..graph import bind, operand_type, tensor_operands
from ..program import Stage
from ..types import TensorType
from .custom import custom_op
from .define import aten, broadcast, define, operand_shapes, or_empty, result_shape
from .registry import OpDef, registry


@custom_op("fv::attention")
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
) -> Tensor:
    """Softmax attention, ``softmax(q kᵀ · scale + mask) v``: the plain-PyTorch reference of all attention backends.

    Args:
        q: ``[batch, heads, queries, head_dim]``.
        k: ``[batch, kv_heads, keys, head_dim]``; ``heads`` is a multiple of ``kv_heads``.
        v: ``[batch, kv_heads, keys, value_dim]``.
        mask: boolean (True: attend) or additive, broadcastable to ``[batch, heads, queries, keys]``; or *lengths*,
            int32 ``[batch]``: how many of the first keys the queries of each row attend to, at least one.
        scale: factor of the scores; ``head_dim ** -0.5`` where None.
        causal: query i sees the keys up to i.

    Returns:
        ``[batch, heads, queries, value_dim]``, stored with the heads next to the channels, as models merge them.
    """
    if q.numel() == 0:
        return empty_result(q, v)
    gqa = q.shape[1] != k.shape[1]
    if mask is not None and is_lengths(mask):
        mask = first_keys(mask, k.shape[2])
    return heads_next_to_channels(
        F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=gqa)
    )


def is_lengths(mask: Tensor | TensorType) -> bool:
    """Whether the mask of an attention says how many keys are seen, and not which."""
    return mask.dtype == torch.int32


def first_keys(lengths: Tensor, keys: int) -> Tensor:
    """Lengths as a boolean mask, ``[batch, 1, 1, keys]``."""
    return (torch.arange(keys, device=lengths.device) < lengths[:, None])[:, None, None]


def heads_next_to_channels(out: Tensor) -> Tensor:
    """The same values in the memory order batch, queries, heads, channels; copied only if they are not."""
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def empty_result(q: Tensor, v: Tensor) -> Tensor:
    """Room for the result of an attention, in the memory order that every attention op has."""
    batch, heads, queries, _ = q.shape
    return q.new_empty((batch, queries, heads, v.shape[-1])).transpose(1, 2)


@attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
) -> Tensor:
    return empty_result(q, v)


def attention_flop_count(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    """``2 b h s t (d + e)``: two matmuls, as ``torch.utils.flop_counter`` counts SDPA."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


register_flop_formula(torch.ops.fv.attention)(attention_flop_count)


@dataclass(frozen=True)
class RingForms:
    """Ops that run an attention whose keys and values go around the ranks of an axis; see :mod:`.ring`.

    Attributes:
        chunk: attention to some of the keys, ``(out, lse)``; takes the attention's own arguments.
        ring: the whole of it; takes the axis as well.
    """

    chunk: Any
    ring: Any


_ring_forms: dict[Any, RingForms] = {}
_rounding: set[Any] = set()


def ring_forms(target: Any) -> RingForms | None:
    """The forms of the attention op ``target``, or of the ring op; None where keys cannot travel."""
    return _ring_forms.get(target)


def is_exact(target: object) -> bool:
    """Whether the attention op ``target`` rounds no more than its dtype does."""
    return target not in _rounding


def is_attention(node: fx.Node) -> bool:
    op = registry.find(node.target) if node.op == "call_function" else None
    return op is not None and op.rule is attention_rule


def is_causal(node: fx.Node) -> bool:
    """Whether an attention is causal."""
    arguments = bind(node)
    return bool(arguments.get("causal", arguments.get("is_causal", False)))


def is_ring(node: fx.Node) -> bool:
    """Whether ``node`` is an attention whose keys and values travel."""
    forms = ring_forms(node.target)
    return forms is not None and node.target is forms.ring


def attention_rule(node: fx.Node) -> FactorRule:
    """``… s d, … t d, … t e -> … s e``: batch, heads and queries are parallel, keys and channels whole.

    So are value channels: a rank that held a part of them would compute all scores none the less. Grouped-query heads
    are a product: kv head × query head of the group. A causal op needs its queries whole. Where the op has
    :class:`RingForms`, keys and values may travel while queries stay.
    """
    arguments = bind(node)
    operands = tensor_operands(node)
    q, k, v = (operand_type(operand).shape for operand in operands[:3])
    causal = is_causal(node)
    grouped = bool(arguments.get("enable_gqa", node.target is not aten.scaled_dot_product_attention.default))
    builder = RuleBuilder()
    leading = result_shape(node)[:-2]
    batch = builder.dims(leading)
    kv_batch, kv_leading = list(batch), leading
    if grouped and q[-3] != k[-3]:
        kv_batch[-1], kv_leading = builder.factor(k[-3]), (*leading[:-1], k[-3])
        batch[-1] = product(kv_batch[-1], builder.factor(q[-3] // k[-3]))
    queries = builder.whole(q[-2]) if causal else builder.factor(q[-2])
    keys, channels, values = builder.whole(k[-2]), builder.whole(q[-1]), builder.whole(v[-1])
    score, score_shape = [*batch, queries, keys], (*leading, q[-2], k[-2])
    masks = [operand_type(mask) for mask in operands[3:]]
    cut = any(map(is_lengths, masks))  # keys are counted from the first one, so that pieces of them mean nothing
    return builder.rule(
        [
            [*broadcast(q[:-2], batch, leading), queries, channels],
            [*broadcast(k[:-2], kv_batch, kv_leading), keys, channels],
            [*broadcast(v[:-2], kv_batch, kv_leading), keys, values],
            *([batch[0]] if is_lengths(mask) else broadcast(mask.shape, score, score_shape) for mask in masks),
        ],
        [[*batch, queries, values]],
        linear=((2,),) if is_exact(node.target) else (),
        travel=_travel(queries, keys) if ring_forms(node.target) and not causal and not cut else None,
    )


def _travel(queries: DimExpr, keys: DimExpr) -> Travel | None:
    stays, travels = queries[0], keys[0]
    return Travel(travels[0], stays[0], (1, 2)) if stays and travels else None


def attention_flops(node: fx.Node) -> int:
    q, k, v = operand_shapes(node)[:3]
    return attention_flop_count(q, k, v)


def register_attention_op(target: object, name: str, ring: RingForms | None = None, *, exact: bool = True) -> None:
    """Add a backend's op, which takes the arguments of ``fv.attention``, and its forms for a ring.

    One that is not exact rounds its values, so that partial sums of them give no partial result.
    """
    assert callable(target)
    if not exact:
        _rounding.update((target, ring.ring) if ring else (target,))
    registry.register(OpDef(target, name, rule=attention_rule, flops=attention_flops, first=Stage.CANONICAL))
    if ring is not None:
        _ring_forms[target] = _ring_forms[ring.ring] = ring
        registry.register(OpDef(ring.chunk, f"{name}_lse", first=Stage.LOCAL))
        registry.register(
            OpDef(
                ring.ring,
                f"{name}_ring",
                rule=attention_rule,
                flops=attention_flops,
                first=Stage.COMMUNICATING,
                last=Stage.COMMUNICATING,
            )
        )


def _eager_rule(node: fx.Node) -> FactorRule | None:
    """SDPA as captured; with dropout it is random and stays whole."""
    return None if bind(node)["dropout_p"] else attention_rule(node)


define("scaled_dot_product_attention.default", _eager_rule, flops=attention_flops, localize=or_empty)
