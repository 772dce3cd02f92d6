"""Attention: batch, heads, queries and value channels are parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Call, Case, Draw, call, case


def _grouped(d: Draw, **options: Any) -> Call:
    heads = d.size("k") * d.random.choice((2, 3))
    return call(d.real("b", heads, "sd"), d.real("bktd"), d.real("bkte"), **options)


def _masked(dims: str) -> Callable[[Draw], Call]:
    return lambda d: call(*_qkv(d), d.real(dims))


def attention_cases(name: str, exact: bool = True) -> list[Case]:
    """Cases of any op that takes the arguments of ``fv.attention``."""
    values = [(2,)] if exact else []
    return [
        case(name, lambda d: call(d.real("bhsd"), d.real("bhtd"), d.real("bhte")), "012", partial=values),
        case(name, lambda d: call(d.real("bhsd"), d.real("bhsd"), d.real("bhse"), None, 0.3, True), "01"),
        case(name, _grouped, "012", partial=values),
        *(case(name, _masked(dims), "012") for dims in ("bhst", "b11t", "st", "1hs1")),
        case(name, lambda d: call(*_qkv(d), d.positive("b1st") > 0.6), "012"),
        case(name, _first_keys, "012"),
    ]


def _first_keys(d: Draw) -> Call:
    lengths = torch.tensor([d.random.randint(1, d.size("t")) for _ in range(d.size("b"))], dtype=torch.int32)
    return call(*_qkv(d), lengths)


def _qkv(d: Draw) -> tuple[Any, Any, Any]:
    return d.real("bhsd"), d.real("bhtd"), d.real("bhte")


_SDPA = "scaled_dot_product_attention.default"

CASES = [
    *attention_cases("fv.attention"),
    case(_SDPA, lambda d: call(*_qkv(d)), "012", partial=[(2,)]),
    case(_SDPA, lambda d: call(*_qkv(d), d.real("b1st"), scale=0.2), "012", partial=[(2,)]),
    case(_SDPA, lambda d: call(*_qkv(d), d.positive("1hst") > 0.6), "012"),
    case(_SDPA, lambda d: call(d.real("bhsd"), d.real("bhsd"), d.real("bhse"), is_causal=True), "01"),
    case(_SDPA, lambda d: _grouped(d, enable_gqa=True), "012"),
    case(_SDPA, lambda d: call(d.real("bsd"), d.real("btd"), d.real("bte")), "01", partial=[(2,)]),
    case(_SDPA, lambda d: call(d.real("abhsd"), d.real("abhtd"), d.real("abhte")), "0123"),
    case(_SDPA, lambda d: call(d.real("bhsd"), d.real("1htd"), d.real("1hte")), "012"),
    case(_SDPA, lambda d: call(d.real("bhsd"), d.real("b1td"), d.real("b1te")), "012"),
]
