"""``fv.modulated_norm`` and ``fv.add_norm``: a norm with all that stands around it, in one pass over memory.

Between two linear layers a transformer adds a gated branch to its stream, normalizes the sum, scales it and shifts it.
On CUDA one Triton kernel reads each operand once and writes each result once, with everything between in fp32;
elsewhere the ops run one after the other, in fp32 as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, operand_type
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import broadcast

from .quantization import widened


@custom_op("fv::modulated_norm")
def modulated_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    dtype: torch.dtype,
) -> Tensor:
    """``(norm(x) · weight + bias) · scale + shift``.

    Args:
        x: ``[batch, tokens, channels]``, normalized over the channels.
        weight: ``[channels]``; None for one.
        bias: ``[channels]``; None for zero.
        scale: broadcastable to ``x``; None for one.
        shift: broadcastable to ``x``; None for zero.
        eps: added to the variance, or to the mean of squares.
        rms: divide by the root of the mean of squares, and leave the mean.
        dtype: of the result.

    Returns:
        Like ``x``, contiguous.
    """
    if has_kernel(x):
        from .norm_kernel import normalize_rows

        out = x.new_empty(x.shape, dtype=dtype)
        normalize_rows(x, None, None, weight, bias, scale, shift, eps, rms, out)
        return out
    return _modulated(x, weight, bias, scale, shift, eps, rms, dtype)


@custom_op("fv::add_norm")
def add_norm(
    x: Tensor,
    y: Tensor,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    total_dtype: torch.dtype,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """``total = x + y · gate`` and its :func:`modulated_norm`.

    Args:
        x: ``[batch, tokens, channels]``.
        y: like ``x``.
        gate: broadcastable to ``x``; None for one.
        weight: this and what follows as in :func:`modulated_norm`.
        bias: ``[channels]``.
        scale: broadcastable to ``x``.
        shift: broadcastable to ``x``.
        eps: of the norm.
        rms: whether the mean stays.
        total_dtype: of the sum that is returned; the one that is normalized is not rounded to it.
        dtype: of the norm's result.

    Returns:
        The sum and its norm, both like ``x`` and contiguous.
    """
    if has_kernel(x):
        from .norm_kernel import normalize_rows

        total, out = x.new_empty(x.shape, dtype=total_dtype), x.new_empty(x.shape, dtype=dtype)
        normalize_rows(x, y, gate, weight, bias, scale, shift, eps, rms, out, total)
        return total, out
    added = widened(y) if gate is None else widened(y) * widened(gate)
    total = widened(x) + added
    return total.to(total_dtype).contiguous(), _modulated(total, weight, bias, scale, shift, eps, rms, dtype)


def has_kernel(x: Tensor) -> bool:
    """Whether the norm kernels compute ``x``."""
    return x.device.type == "cuda" and x.dtype is not torch.float64 and x.numel() > 0


def _modulated(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    dtype: torch.dtype,
) -> Tensor:
    value = normalized(widened(x), (-1,), eps, rms)
    for factor, addend in ((weight, bias), (scale, shift)):
        value = value if factor is None else value * widened(factor)
        value = value if addend is None else value + widened(addend)
    return value.to(dtype).contiguous()


def normalized(x: Tensor, dims: tuple[int, ...], eps: float, rms: bool) -> Tensor:
    """``x`` divided by its root mean square over ``dims``, after its mean is taken off unless ``rms``."""
    centred = x if rms else x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


@modulated_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


@add_norm.register_fake
def _(
    x: Tensor,
    y: Tensor,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
    total_dtype: torch.dtype,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=total_dtype), x.new_empty(x.shape, dtype=dtype)


def modulated_norm_rule(node: fx.Node) -> ir.FactorRule:
    """``b s c, b s c, …, c -> b s c``: a row is normalized as a whole, so ``c`` is whole; what is broadcast follows."""
    arguments = bind(node)
    shape = operand_type(arguments["x"]).shape
    builder = ir.RuleBuilder()
    dims = [*builder.dims(shape[:-1]), builder.whole(shape[-1])]
    operands = [value for value in arguments.values() if isinstance(value, fx.Node)]
    results = [dims] * (2 if "y" in arguments else 1)
    return builder.rule([broadcast(operand_type(value).shape, dims, shape) for value in operands], results)


modulated_norm_op = torch.ops.fv.modulated_norm.default
add_norm_op = torch.ops.fv.add_norm.default
ir.ops.registry.register(ir.OpDef(modulated_norm_op, "fv.modulated_norm", rule=modulated_norm_rule))
ir.ops.registry.register(ir.OpDef(add_norm_op, "fv.add_norm", rule=modulated_norm_rule))
