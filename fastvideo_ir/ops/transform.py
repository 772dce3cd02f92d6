"""Ops that work along a few dims and treat the others alike: FFT, windows, diagonals, distances."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from ..factors import DimExpr, FactorRule, RuleBuilder, product
from ..graph import bind, dim_index
from .define import broadcast, broadcast_shape, define, operand_shapes, or_empty, result_shape, whole_rule

LINEAR = ((0,),)


def _along(node: fx.Node, dims: Iterable[int], linear: tuple[tuple[int, ...], ...] = ()) -> FactorRule:
    """One operand, one result of the same rank; ``dims`` are whole and may differ in size."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    touched = {dim_index(dim, len(shape)) for dim in dims}
    builder = RuleBuilder()
    shared = {d: builder.factor(size) for d, size in enumerate(shape) if d not in touched}
    operand = [shared[d] if d in shared else builder.whole(size) for d, size in enumerate(shape)]
    result = [shared[d] if d in shared else builder.whole(size) for d, size in enumerate(out)]
    return builder.rule([operand], [result], linear=linear)


def fft_rule(node: fx.Node) -> FactorRule:
    """Fourier transforms are linear; transformed dims are whole."""
    dims = bind(node)["dim"]
    if dims is None:
        return whole_rule(node)
    return _along(node, [dims] if isinstance(dims, int) else dims, LINEAR)


def difference_rule(node: fx.Node) -> FactorRule:
    """``diff`` without borders."""
    if len(operand_shapes(node)) > 1:
        return whole_rule(node)
    return _along(node, [bind(node)["dim"]], LINEAR)


def unfold_rule(node: fx.Node) -> FactorRule:
    """Windows over one dim, which is whole; what is in a window becomes the last dim."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    dim = dim_index(bind(node)["dimension"], len(shape))
    builder = RuleBuilder()
    operand = [builder.whole(size) if d == dim else builder.factor(size) for d, size in enumerate(shape)]
    result = [builder.whole(out[dim]) if d == dim else e for d, e in enumerate(operand)]
    return builder.rule([operand], [[*result, builder.whole(out[-1])]], linear=LINEAR)


def diagonal_rule(node: fx.Node) -> FactorRule:
    """``diagonal``: two dims become one, which comes last."""
    arguments = bind(node)
    shape, out = operand_shapes(node)[0], result_shape(node)
    pair = {dim_index(arguments[name], len(shape)) for name in ("dim1", "dim2")}
    builder = RuleBuilder()
    operand = [builder.whole(size) if d in pair else builder.factor(size) for d, size in enumerate(shape)]
    rest = [e for d, e in enumerate(operand) if d not in pair]
    return builder.rule([operand], [[*rest, builder.whole(out[-1])]], linear=LINEAR)


def diag_embed_rule(node: fx.Node) -> FactorRule:
    """``diag_embed``: the last dim becomes two."""
    arguments = bind(node)
    shape, out = operand_shapes(node)[0], result_shape(node)
    pair = {dim_index(arguments[name], len(out)) for name in ("dim1", "dim2")}
    builder = RuleBuilder()
    rest = builder.dims(shape[:-1])
    supply = iter(rest)
    result = [builder.whole(size) if d in pair else next(supply) for d, size in enumerate(out)]
    return builder.rule([[*rest, builder.whole(shape[-1])]], [result], linear=LINEAR)


def columns_rule(node: fx.Node) -> FactorRule:
    """``im2col``, ``b c h w -> b (c k) l``, and ``col2im`` back."""
    shape, out = operand_shapes(node)[0], result_shape(node)
    image, columns = (shape, out) if len(shape) > len(out) else (out, shape)
    builder = RuleBuilder()
    batch = builder.dims(image[:-3])
    channels, kernel = builder.factor(image[-3]), builder.whole(columns[-2] // image[-3])
    spread = [*batch, channels, builder.whole(image[-2]), builder.whole(image[-1])]
    packed = [*batch, product(channels, kernel), builder.whole(columns[-1])]
    operand, result = (spread, packed) if image is shape else (packed, spread)
    return builder.rule([operand], [result], linear=LINEAR)


def pair_rule(node: fx.Node) -> FactorRule:
    """``cosine_similarity`` and ``cross``: two operands that broadcast; the dim they work along is whole."""
    left, right = operand_shapes(node)
    given = bind(node)["dim"]
    shape = broadcast_shape(left, right)
    if given is None:
        return whole_rule(node)
    dim = dim_index(given, len(shape))
    builder = RuleBuilder()
    dims: list[DimExpr] = [builder.whole(size) if d == dim else builder.factor(size) for d, size in enumerate(shape)]
    result = dims if len(result_shape(node)) == len(shape) else [e for d, e in enumerate(dims) if d != dim]
    return builder.rule([broadcast(left, dims, shape), broadcast(right, dims, shape)], [result])


def distance_rule(node: fx.Node) -> FactorRule:
    """``cdist``: ``… m d, … n d -> … m n``."""
    left, right = operand_shapes(node)
    out = result_shape(node)
    builder = RuleBuilder()
    *batch, rows, columns = builder.dims(out)
    inner = builder.whole(left[-1])
    a = [*broadcast(left[:-2], batch, out[:-2]), rows, inner]
    b = [*broadcast(right[:-2], batch, out[:-2]), columns, inner]
    return builder.rule([a, b], [[*batch, rows, columns]])


define(
    """
    fft_fft.default fft_ifft.default fft_rfft.default fft_irfft.default fft_fft2.default fft_ifft2.default
    fft_rfft2.default fft_irfft2.default fft_fftn.default fft_ifftn.default fft_rfftn.default fft_irfftn.default
    fft_hfft.default fft_ihfft.default fft_fftshift.default fft_ifftshift.default
    """,
    fft_rule,
    localize=or_empty,
)
define("diff.default", difference_rule)
define("unfold.default", unfold_rule)
define("diagonal.default", diagonal_rule)
define("diag_embed.default", diag_embed_rule)
define("im2col.default col2im.default", columns_rule, localize=or_empty)
define("cosine_similarity.default cross.default linalg_cross.default", pair_rule)
define("cdist.default", distance_rule)
