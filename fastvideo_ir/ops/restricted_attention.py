"""``fv.attention_among``: attention of which the model's author has said which backends may run it."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

from ..graph import bind
from .attention import attention, attention_flop_count, attention_flops, attention_rule, empty_result
from .custom import custom_op
from .registry import OpDef, registry


@custom_op("fv::attention_among")
def attention_among(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    backends: str = "",
) -> Tensor:
    """As :func:`attention`; ``select-attention-backend`` takes one of ``backends``, names with commas between."""
    result: Tensor = attention(q, k, v, mask, scale, causal)
    return result


@attention_among.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    backends: str = "",
) -> Tensor:
    return empty_result(q, v)


among_op = torch.ops.fv.attention_among.default
register_flop_formula(torch.ops.fv.attention_among)(attention_flop_count)
registry.register(OpDef(among_op, "fv.attention_among", rule=attention_rule, flops=attention_flops))


def awaits_backend(node: fx.Node) -> bool:
    """Whether ``node`` is an attention that no backend has been selected for."""
    return node.target in (torch.ops.fv.attention.default, among_op)


def allowed_backends(node: fx.Node) -> tuple[str, ...] | None:
    """The backends that the model's author allows; None for all."""
    return tuple(bind(node)["backends"].split(",")) if node.target is among_op else None
