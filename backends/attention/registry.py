"""Registered attention backends, in the order in which ``auto`` asks them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.ops.attention import (
    attention_flop_count,
    empty_result,
    heads_next_to_channels,
    register_attention_op,
    ring_forms,
)
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.ring import define_ring_forms

from .base import AttentionBackend

NAMESPACE = "fv_attn"
_registered: dict[str, tuple[AttentionBackend, Any]] = {}
"""Each backend and its op, by name; the one registered last comes last."""


def register(backend: AttentionBackend, own_op: Any = None) -> None:
    """Add a backend, in front of those that ``auto`` asked first so far, and make its op.

    Args:
        backend: what is asked, and run by the op.
        own_op: an op that is registered already, of a backend that a pass of its own selects.

    Raises:
        InvalidArgumentError: the name is taken, or is no identifier.
    """
    name = backend.name
    if name in _registered:
        raise InvalidArgumentError(f"attention backend {name!r} is registered already")
    if not name.isidentifier():
        raise InvalidArgumentError(f"attention backend name {name!r} is not an identifier")
    _registered[name] = backend, _make_op(backend) if own_op is None else own_op


def _make_op(backend: AttentionBackend) -> Any:
    name = backend.name.lower()

    @custom_op(f"{NAMESPACE}::{name}")
    def op(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
    ) -> Tensor:
        if q.numel() == 0:  # a rank beyond the last head or query
            return empty_result(q, v)
        return heads_next_to_channels(backend.run(q, k, v, mask, scale, causal))

    @op.register_fake
    def _(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, causal: bool = False
    ) -> Tensor:
        return empty_result(q, v)

    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    register_flop_formula(packet)(attention_flop_count)
    forms = define_ring_forms(f"{NAMESPACE}::{name}", op, backend.run_with_lse) if backend.tells_lse else None
    register_attention_op(packet.default, f"{NAMESPACE}.{name}", forms, exact=backend.exact)
    return packet.default


def backends() -> dict[str, AttentionBackend]:
    """All backends by name; the one asked first comes first."""
    return {name: backend for name, (backend, _) in reversed(_registered.items())}


def op_of(backend: AttentionBackend) -> Any:
    """The op that runs ``backend``."""
    return _registered[backend.name][1]


def backend_of(target: Any) -> AttentionBackend | None:
    """The backend whose op, or whose ring, ``target`` is."""
    forms = ring_forms(target)
    return next(
        (backend for backend, op in _registered.values() if op is target or (forms and ring_forms(op) is forms)), None
    )
