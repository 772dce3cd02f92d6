"""Fused compute ops of the backends."""

from __future__ import annotations

import fastvideo.backends  # noqa: F401  (registers the ops)

from .case import call, case

CASES = [
    case("fv.linear_gelu", lambda d: call(d.real("bsi"), d.real("oi"), d.real("o")), "012"),
    case("fv.linear_gelu", lambda d: call(d.real("si"), d.real("oi"), d.real("o")), "01"),
]
