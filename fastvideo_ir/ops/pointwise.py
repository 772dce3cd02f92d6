"""Element-by-element ops: every dim is parallel, operands broadcast."""

from __future__ import annotations

from torch import fx

from ..factors import FactorRule, RuleBuilder, concatenation
from ..graph import bind, dim_index, tensor_operands
from .define import broadcast, define, operand_shapes, result_shape


def _rule(node: fx.Node, linear: tuple[tuple[int, ...], ...]) -> FactorRule:
    shape = result_shape(node)
    builder = RuleBuilder()
    out = builder.dims(shape)
    return builder.rule([broadcast(s, out, shape) for s in operand_shapes(node)], [out], linear=linear)


def pointwise_rule(node: fx.Node) -> FactorRule:
    return _rule(node, ())


def additive_rule(node: fx.Node) -> FactorRule:
    """Linear in both operands jointly. A partial sum plus a plain number is not linear."""
    return _rule(node, ((0, 1),) if len(tensor_operands(node)) == 2 else ())


def product_rule(node: fx.Node) -> FactorRule:
    """Linear in either operand."""
    return _rule(node, tuple((n,) for n in range(len(tensor_operands(node)))))


def quotient_rule(node: fx.Node) -> FactorRule:
    """Linear in the first operand, where that is a tensor."""
    return _rule(node, ((0,),) if isinstance(node.args[0], fx.Node) else ())


def linear_rule(node: fx.Node) -> FactorRule:
    """One operand, linear and exact: copies and negation."""
    return _rule(node, ((0,),))


def where_rule(node: fx.Node) -> FactorRule:
    """Linear in what is chosen from, under one condition."""
    return _rule(node, ((1, 2),) if len(tensor_operands(node)) == 3 else ())


POINTWISE_RULES = (pointwise_rule, additive_rule, product_rule, quotient_rule, linear_rule, where_rule)
"""The rules of this file under which every element stands for itself."""

define(
    "add.Tensor add.Scalar sub.Tensor sub.Scalar subtract.Tensor subtract.Scalar rsub.Tensor rsub.Scalar", additive_rule
)
define("mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar", product_rule)
define("div.Tensor div.Scalar divide.Tensor divide.Scalar true_divide.Tensor true_divide.Scalar", quotient_rule)
define(
    """
    neg.default negative.default positive.default clone.default contiguous.default alias.default detach.default
    lift_fresh_copy.default lift_fresh.default real.default imag.default conj.default _conj.default
    conj_physical.default resolve_conj.default resolve_neg.default
    """,
    linear_rule,
)
define("where.self", where_rule)
define(
    """
    abs.default acos.default asin.default atan.default atan2.default bitwise_and.Tensor bitwise_not.default
    bitwise_or.Tensor bitwise_xor.Tensor ceil.default celu.default clamp.default clamp.Tensor clamp_max.default
    clamp_min.default clip.default copysign.Tensor cos.default cosh.default div.Tensor_mode div.Scalar_mode elu.default
    eq.Scalar eq.Tensor erf.default erfc.default exp.default exp2.default expm1.default floor.default
    floor_divide.default floor_divide.Scalar fmod.Scalar fmod.Tensor frac.default ge.Scalar ge.Tensor gelu.default
    greater.Tensor greater_equal.Tensor gt.Scalar gt.Tensor hardsigmoid.default hardswish.default hardtanh.default
    isfinite.default isinf.default isnan.default le.Scalar le.Tensor leaky_relu.default lerp.Scalar lerp.Tensor
    less.Tensor less_equal.Tensor log.default log10.default log1p.default log2.default log_sigmoid.default
    logical_and.default logical_not.default logical_or.default logical_xor.default lt.Scalar lt.Tensor
    masked_fill.Scalar masked_fill.Tensor maximum.default minimum.default mish.default nan_to_num.default ne.Scalar
    ne.Tensor not_equal.Tensor polar.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor reciprocal.default
    relu.default relu6.default remainder.Scalar remainder.Tensor round.default round.decimals rsqrt.default
    selu.default sigmoid.default sign.default silu.default sin.default sinh.default softplus.default sqrt.default
    square.default tan.default tanh.default threshold.default trunc.default where.ScalarSelf
    where.ScalarOther where.Scalar xlogy.Tensor __and__.Tensor __or__.Tensor __xor__.Tensor __and__.Scalar
    __or__.Scalar addcmul.default addcdiv.default complex.default
    angle.default
    absolute.default acosh.default arccos.default arcsin.default arctan.default arctan2.default arctanh.default
    asinh.default atanh.default bitwise_and.Scalar bitwise_left_shift.Tensor_Scalar bitwise_or.Scalar
    bitwise_right_shift.Tensor_Scalar bitwise_xor.Scalar __lshift__.Scalar __rshift__.Scalar clamp_max.Tensor
    clamp_min.Tensor clip.Tensor copysign.Scalar deg2rad.default digamma.default divide.Tensor_mode erfinv.default
    fill.Scalar fix.default float_power.Tensor_Scalar fmax.default fmin.default hardshrink.default hypot.default
    isclose.default isneginf.default isposinf.default lgamma.default logaddexp.default logaddexp2.default logit.default
    max.other min.other rad2deg.default remainder.Scalar_Tensor sgn.default signbit.default sinc.default
    softshrink.default special_expit.default
    __lshift__.Tensor __rshift__.Tensor __xor__.Scalar arccosh.default arcsinh.default bitwise_and.Scalar_Tensor
    bitwise_left_shift.Scalar_Tensor bitwise_left_shift.Tensor bitwise_or.Scalar_Tensor
    bitwise_right_shift.Scalar_Tensor bitwise_right_shift.Tensor bitwise_xor.Scalar_Tensor divide.Scalar_mode
    float_power.Scalar float_power.Tensor_Tensor gcd.default greater.Scalar heaviside.default i0.default
    isin.Tensor_Scalar lcm.default ldexp.Tensor less.Scalar nextafter.default xlogy.Scalar_Other xlogy.Scalar_Self
    to.dtype to.dtype_layout to.device _to_copy.default
    ones_like.default zeros_like.default full_like.default empty_like.default copy.default
    """,
    pointwise_rule,
)


def shaped_like_first_rule(node: fx.Node) -> FactorRule:
    """The second operand gives its dtype alone, whatever its shape."""
    builder = RuleBuilder()
    shape, other = operand_shapes(node)
    dims = builder.dims(shape)
    return builder.rule([dims, [builder.whole(size) for size in other]], [dims])


def filled_rule(node: fx.Node) -> FactorRule:
    """The second operand is one number."""
    builder = RuleBuilder()
    dims = builder.dims(operand_shapes(node)[0])
    return builder.rule([dims, []], [dims])


def glu_rule(node: fx.Node) -> FactorRule:
    """``(c + c) -> c``: both halves share one factor, so a rank that holds a piece of each needs nothing more."""
    shape = operand_shapes(node)[0]
    dim = dim_index(bind(node)["dim"], len(shape))
    builder = RuleBuilder()
    result = builder.dims([size // 2 if d == dim else size for d, size in enumerate(shape)])
    operand = [concatenation(e, e) if d == dim else e for d, e in enumerate(result)]
    return builder.rule([operand], [result])


def prelu_rule(node: fx.Node) -> FactorRule:
    """One slope, or one for each channel; channels are dim 1."""
    shape, (slopes,) = operand_shapes(node)
    builder = RuleBuilder()
    dims = builder.dims(shape)
    return builder.rule([dims, [dims[1] if slopes > 1 else ((),)]], [dims])


define("type_as.default to.other", shaped_like_first_rule)
define("fill.Tensor", filled_rule)
define("glu.default", glu_rule)
define("prelu.default", prelu_rule)
