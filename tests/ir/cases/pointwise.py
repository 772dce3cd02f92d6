"""Element-by-element ops: cases follow from the schema and the domain of each op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvideo_ir.ops import registry
from fastvideo_ir.ops.pointwise import POINTWISE_RULES

from .case import Call, Case, Draw, call, case, exact


def _names(text: str) -> list[str]:
    return text.split()


_DOMAINS = {
    # r real, p positive, u in (-1, 1), i integer, n a small one from zero on, b boolean, c complex, s a real scalar
    # tensor; one letter an operand
    "u": """acos.default acosh.default asin.default atanh.default erfinv.default logit.default arccos.default
        arcsin.default arctanh.default special_logit.default""",
    "p": """log.default log10.default log1p.default log2.default sqrt.default rsqrt.default pow.Tensor_Scalar pow.Scalar
        reciprocal.default digamma.default lgamma.default float_power.Tensor_Scalar
        remainder.Scalar_Tensor float_power.Scalar xlogy.Scalar_Self fmod.Scalar""",
    "rp": """pow.Tensor_Tensor div.Tensor div.Tensor_mode divide.Tensor divide.Tensor_mode true_divide.Tensor
        fmod.Tensor remainder.Tensor floor_divide.default xlogy.Tensor""",
    "pr": "float_power.Tensor_Tensor",
    "rrp": "addcdiv.default",
    "i": """eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar bitwise_not.default __and__.Scalar
        __or__.Scalar bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar bitwise_left_shift.Tensor_Scalar
        bitwise_right_shift.Tensor_Scalar __lshift__.Scalar __rshift__.Scalar logical_not.default
        __xor__.Scalar bitwise_and.Scalar_Tensor bitwise_or.Scalar_Tensor bitwise_xor.Scalar_Tensor isin.Tensor_Scalar
        greater.Scalar less.Scalar""",
    "n": "bitwise_left_shift.Scalar_Tensor bitwise_right_shift.Scalar_Tensor",
    "in": """bitwise_left_shift.Tensor bitwise_right_shift.Tensor __lshift__.Tensor __rshift__.Tensor""",
    "ri": "ldexp.Tensor",
    "ii": """eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor not_equal.Tensor less.Tensor greater.Tensor
        less_equal.Tensor greater_equal.Tensor bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor __and__.Tensor
        __or__.Tensor __xor__.Tensor gcd.default lcm.default logical_and.default logical_or.default
        logical_xor.default""",
    "brr": "where.self where.ScalarSelf where.ScalarOther where.Scalar",
    "rbs": "masked_fill.Scalar masked_fill.Tensor",
    "rr": "isclose.default",
    "c": """real.default imag.default angle.default conj.default _conj.default conj_physical.default
        resolve_conj.default""",
}
DOMAINS = {name: domain for domain, names in _DOMAINS.items() for name in _names(names)}
"""Operands are real where an op is not named here."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "__and__.Scalar": {"other": 3},
    "__or__.Scalar": {"other": 3},
    "__xor__.Scalar": {"other": 3},
    "bitwise_and.Scalar_Tensor": {"self": 3},
    "bitwise_or.Scalar_Tensor": {"self": 3},
    "bitwise_xor.Scalar_Tensor": {"self": 3},
    "bitwise_left_shift.Scalar_Tensor": {"self": 3},
    "bitwise_right_shift.Scalar_Tensor": {"self": 64},
    "divide.Scalar_mode": {"rounding_mode": "floor"},
    "isin.Tensor_Scalar": {"test_element": 2},
    "bitwise_and.Scalar": {"other": 3},
    "bitwise_or.Scalar": {"other": 3},
    "bitwise_xor.Scalar": {"other": 3},
    "bitwise_left_shift.Tensor_Scalar": {"other": 2},
    "bitwise_right_shift.Tensor_Scalar": {"other": 1},
    "__lshift__.Scalar": {"other": 2},
    "__rshift__.Scalar": {"other": 1},
    "divide.Tensor_mode": {"rounding_mode": "floor"},
    "clamp.default": {"min": -0.5, "max": 0.5},
    "clip.default": {"min": -0.5, "max": 0.5},
    "div.Scalar_mode": {"rounding_mode": "floor"},
    "div.Tensor_mode": {"rounding_mode": "trunc"},
    "eq.Scalar": {"other": 1},
    "ne.Scalar": {"other": 1},
    "masked_fill.Scalar": {"value": -1.5},
    "round.decimals": {"decimals": 1},
    "to.device": {"device": torch.device("meta"), "dtype": torch.float32},
    "to.dtype": {"dtype": torch.float32},
    "to.dtype_layout": {"dtype": torch.int64},
    "_to_copy.default": {"dtype": torch.float32},
}
"""Arguments other than tensors; scalars are 0.7 where nothing is said."""

ROUNDED = frozenset(
    _names(
        """
        acos.default acosh.default asin.default asinh.default atan.default atan2.default atanh.default celu.default
        cos.default cosh.default elu.default erf.default erfc.default erfinv.default exp.default exp2.default
        expm1.default gelu.default log.default log10.default log1p.default log2.default log_sigmoid.default
        logit.default mish.default polar.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor rsqrt.default
        selu.default sigmoid.default silu.default sin.default sinh.default softplus.default tan.default tanh.default
        xlogy.Tensor angle.default lerp.Tensor lerp.Scalar addcmul.default addcdiv.default digamma.default
        lgamma.default sinc.default arccos.default arcsin.default arctan.default arctan2.default arctanh.default
        logaddexp.default logaddexp2.default hypot.default special_expit.default float_power.Tensor_Scalar
        deg2rad.default rad2deg.default float_power.Scalar float_power.Tensor_Tensor xlogy.Scalar_Other
        xlogy.Scalar_Self i0.default arccosh.default arcsinh.default
        """
    )
)
"""Ops whose last bit depends on where an element stands: vectors and their remainder take different code."""

LINEAR: dict[str, list[tuple[int, ...]]] = {
    "add.Tensor": [(0, 1)],
    "sub.Tensor": [(0, 1)],
    "rsub.Tensor": [(0, 1)],
    "mul.Tensor": [(0,), (1,)],
    "mul.Scalar": [(0,)],
    "div.Tensor": [(0,)],
    "div.Scalar": [(0,)],
    "neg.default": [(0,)],
    "clone.default": [(0,)],
    "subtract.Tensor": [(0, 1)],
    "multiply.Tensor": [(0,), (1,)],
    "divide.Tensor": [(0,)],
    "true_divide.Tensor": [(0,)],
    "negative.default": [(0,)],
    "contiguous.default": [(0,)],
    "alias.default": [(0,)],
    "detach.default": [(0,)],
    "where.self": [(1, 2)],
    "real.default": [(0,)],
    "imag.default": [(0,)],
    "conj.default": [(0,)],
    "_conj.default": [(0,)],
}
"""Partial sums that must pass."""

_SHAPES = ("bsc", "bsc", "c", "s1", "1s1", "b11", "")
_FULL_FIRST = frozenset({"copy.default", "masked_fill.Scalar", "masked_fill.Tensor", "type_as.default", "to.other"})


def _tensor(kind: str, draw: Draw, dims: str) -> Tensor:
    makers: dict[str, Callable[..., Tensor]] = {
        "r": draw.real,
        "p": draw.positive,
        "u": draw.unit,
        "i": draw.ints,
        "n": lambda *dims: draw.ints(*dims, low=0, high=4),
        "b": draw.bools,
        "c": draw.complex,
        "s": lambda *_: draw.real(),
    }
    return makers[kind](dims)


def _maker(name: str, target: Any) -> Callable[[Draw], Call]:
    parameters = target._schema.arguments

    def make(draw: Draw) -> Call:
        domains = iter(DOMAINS.get(name, "rrr"))
        given = ARGUMENTS.get(name, {})
        tensors = [p.name for p in parameters if str(p.type) == "Tensor"]
        full = tensors[0] if name in _FULL_FIRST else draw.random.choice(tensors)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name in tensors:
                dims = "bsc" if parameter.name == full else draw.random.choice(_SHAPES)
                value: Any = _tensor(next(domains), draw, dims)
            elif parameter.name in given:
                value = given[parameter.name]
            elif str(parameter.type) == "number" and not parameter.has_default_value():
                value = 0.7
            else:
                assert parameter.has_default_value(), f"{name} needs a value for {parameter.name!r} in ARGUMENTS"
                value = parameter.default_value
            if parameter.kwarg_only:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return Call(tuple(args), kwargs)

    return make


def _auto() -> list[Case]:
    cases = []
    for full_name, op in registry.ops.items():
        name = full_name.removeprefix("aten.")
        if op.rule in POINTWISE_RULES and name not in BY_HAND:
            tolerance = None if name.startswith("empty") else 1e-14 if name in ROUNDED else 0.0
            cases.append(
                Case(
                    full_name,
                    _maker(name, op.target),
                    (0, 1, 2),
                    partial=tuple(LINEAR.get(name, ())),
                    tolerance=tolerance,
                )
            )
    return cases


BY_HAND = frozenset({"clamp.Tensor", "clip.Tensor"})

CASES = [
    *_auto(),
    exact("clamp.Tensor", lambda d: call(d.real("bsc"), -d.positive("c"), d.positive("s1")), "012"),
    exact("clip.Tensor", lambda d: call(d.real("bsc"), -d.positive("c"), d.positive("s1")), "012"),
    exact("fill.Tensor", lambda d: call(d.real("bsc"), d.real()), "012"),
    case("glu.default", lambda d: call(d.real("bs", 2 * d.size("c"))), "012"),
    case("glu.default", lambda d: call(d.real("b", 12, "c"), 1), "012"),
    exact("prelu.default", lambda d: call(d.real("bsc"), d.positive("s")), "012"),
    exact("prelu.default", lambda d: call(d.real("bsc"), d.positive("1")), "012"),
    *(
        exact(f"{name}.default", lambda d: call(d.real("bsc"), 0.5, False), "012", partial=[(0,)])
        for name in ("dropout", "feature_dropout", "alpha_dropout")
    ),
    exact("add.Tensor", lambda d: call(d.real("bsc"), d.real("c"), alpha=2), "012", partial=[(0, 1)]),
    exact("add.Tensor", lambda d: call(d.real("bsc"), 1.5), "012"),
    exact("sub.Tensor", lambda d: call(d.ints("bsc"), d.ints("sc")), "012", partial=[(0, 1)]),
    exact("mul.Tensor", lambda d: call(d.real("bsc"), 1.5), "012", partial=[(0,)]),
    exact("mul.Tensor", lambda d: call(x := d.real("bsc"), x), "012"),
    case("mul.Tensor", lambda d: call(d.complex("bsc"), d.complex("sc")), "012", partial=[(0,), (1,)]),
    exact("where.self", lambda d: call(d.bools("s1"), d.real("bsc"), d.real("")), "012", partial=[(1, 2)]),
    exact("type_as.default", lambda d: call(d.real("bsc"), d.ints("bsc")), "012"),
    exact("type_as.default", lambda d: call(d.real("bsc"), d.ints("xy")), "012"),
    exact("to.other", lambda d: call(d.real("bsc"), d.ints("x")), "012"),
]
