"""The factor rules of fused ops, under the rule oracle."""

from __future__ import annotations

import pytest
import torch

from fastvideo.backends import fused
from fastvideo_ir.ops.registry import OpDef, registry
from tests.ir.cases.case import Call, Case, Draw, call, case
from tests.ir.oracle import check_case


def _scaled(d: Draw, bias: bool) -> Call:
    operands = d.real("bsi"), d.positive("bs1"), d.real("oi"), d.positive("o"), d.real("o") if bias else None
    return call(*operands, torch.float64)


def _modulated(d: Draw, added: bool) -> Call:
    modulation = [d.real("b1c"), d.real("11c")]
    first = (d.real("bsc"), d.real("bsc"), d.real("b1c")) if added else (d.real("bsc"),)
    dtypes = (torch.float64,) * (2 if added else 1)
    return call(*first, d.real("c"), None, *modulation, 1e-6, not added, *dtypes)


def _rotary(d: Draw, joint: bool) -> Call:
    pairs = d.size("p")
    rows = d.size("h") if joint else 1
    tables = d.real("1s1", pairs), d.real("s1", 2 * pairs)
    norm = d.real(rows * 2 * pairs), None if joint else d.real(2 * pairs), "rms" if joint else "layer"
    return call(d.real("bsh", 2 * pairs), *tables, *norm, joint, 1e-6, joint, torch.float64)


def _cat(d: Draw, bias: bool) -> Call:
    parts = [d.real("bs", size) for size in (d.size("i"), d.size("j"))]
    return call(parts, d.real("o", d.size("i") + d.size("j")), d.real("o") if bias else None)


CASES = [
    case("fv.modulated_norm", lambda d: _modulated(d, False), "01"),
    case("fv.add_norm", lambda d: _modulated(d, True), "01"),
    case("fv.norm_rotary", lambda d: _rotary(d, True), "01"),
    case("fv.norm_rotary", lambda d: _rotary(d, False), "012"),
    case("fv.quantize_tokens", lambda d: call(d.real("bsi"), torch.int8), "01"),
    case("fv.quantize_tokens", lambda d: call(d.real("si"), torch.int8, True), "0"),
    case("fv.scaled_linear", lambda d: _scaled(d, True), "012", sums=[(0, 2), (2, 1)]),
    case("fv.scaled_linear", lambda d: _scaled(d, False), "012", sums=[(0, 2), (2, 1)]),
    case("fv.cat_linear", lambda d: _cat(d, True), "012"),
    case("fv.cat_linear", lambda d: _cat(d, False), "012"),
    case("fv.linear_gelu", lambda d: call(d.real("bsi"), d.real("oi"), d.real("o")), "012"),
    case("fv.linear_gelu", lambda d: call(d.real("si"), d.real("oi"), d.real("o")), "01"),
]


def fused_ops() -> dict[str, OpDef]:
    return {
        name: op
        for name, op in registry.ops.items()
        if op.rule is not None and op.rule.__module__.startswith(fused.__name__)
    }


def test_every_fused_op_has_a_case() -> None:
    assert set(fused_ops()) == {one.op for one in CASES}


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.op)
def test_rule_agrees_with_the_op(one: Case) -> None:
    check_case(fused_ops()[one.op], one, range(8))
