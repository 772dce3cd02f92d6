"""``fv.quantize_tokens`` and ``fv.scaled_linear``: a linear layer on quantized operands, as two ops.

They are two so that layers which read the same activation quantize it once. On CUDA the first is one Triton kernel that
reads each token once, with the GELU before it where there is one; the second is cuBLASLt's or CUTLASS's GEMM with
row-wise scaling (``torch._scaled_mm``) in fp8, ``torch._int_mm`` in int8. Elsewhere plain PyTorch quantizes the same
way.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

import fastvideo_ir as ir
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import operand_shapes

from .quantization import OF_DTYPE, multiplied, quantized

_GEMM_MULTIPLE = 16
"""The GEMMs take only multiples of it as inner and output sizes; a rank's odd piece is padded."""
_FEWEST_ROWS = 32
"""``torch._int_mm`` takes more than 16 rows."""


@custom_op("fv::quantize_tokens")
def quantize_tokens(x: Tensor, dtype: torch.dtype, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Codes with one scale per token.

    Args:
        x: ``[..., channels]``.
        dtype: of the codes: ``float8_e4m3fn`` or ``int8``.
        gelu: quantize the tanh GELU of ``x`` instead.

    Returns:
        Codes like ``x``, and fp32 scales ``[..., 1]``.
    """
    if x.device.type == "cuda" and x.numel() and x.dtype is not torch.float64:
        from .quantize_kernel import quantize_rows

        return quantize_rows(x, OF_DTYPE[dtype], gelu)
    return quantized(x, OF_DTYPE[dtype], gelu)


@quantize_tokens.register_fake
def _(x: Tensor, dtype: torch.dtype, gelu: bool = False) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@custom_op("fv::scaled_linear")
def scaled_linear(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``(codes · scales) (weight · weight_scales)ᵀ + bias``.

    Args:
        codes: ``[..., in]``, from :func:`quantize_tokens`.
        scales: ``[..., 1]``, fp32.
        weight: codes ``[out, in]``.
        weight_scales: ``[out]``, fp32.
        bias: ``[out]``.
        dtype: of the result.

    Returns:
        ``[..., out]``.
    """
    if codes.device.type != "cuda" or not codes.numel() or not weight.numel() or dtype is torch.float64:
        return multiplied(codes, scales, weight, weight_scales, bias, dtype)
    rows, outputs = math.prod(codes.shape[:-1]), weight.shape[0]
    a, b = codes.reshape(rows, -1), weight
    inner, missing = -a.shape[1] % _GEMM_MULTIPLE, -outputs % _GEMM_MULTIPLE
    if inner or missing:
        a, b = _padded(a, 0, inner), _padded(b, missing, inner)
        weight_scales = F.pad(weight_scales, (0, missing))
        bias = None if bias is None else F.pad(bias, (0, missing))
    row_scales, column_scales = scales.reshape(rows, 1), weight_scales[None]
    if codes.dtype is torch.int8:
        tall = _padded(a, max(0, _FEWEST_ROWS - rows), 0)
        out = torch._int_mm(tall, b.t())[:rows].float().mul_(row_scales).mul_(column_scales)
        out = (out if bias is None else out.add_(bias)).to(dtype)
    else:
        half = None if bias is None else bias.to(torch.bfloat16)
        out = torch._scaled_mm(
            a.contiguous(), b.t(), row_scales, column_scales, bias=half, out_dtype=torch.bfloat16, use_fast_accum=True
        ).to(dtype)
    return (out[:, :outputs].contiguous() if missing else out).view(*codes.shape[:-1], outputs)


@scaled_linear.register_fake
def _(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight.shape[0]), dtype=dtype)


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros below and to the right; as bytes, since not every op knows fp8."""
    return F.pad(codes.view(torch.uint8), (0, columns, 0, rows)).view(codes.dtype) if rows or columns else codes


@register_flop_formula(torch.ops.fv.scaled_linear)
def _flops(codes: tuple[int, ...], scales: object, weight: tuple[int, ...], *_: object, **__: object) -> int:
    return 2 * math.prod(codes) * weight[0]


def quantize_tokens_rule(node: fx.Node) -> ir.FactorRule:
    """``b s i -> b s i, b s 1``: a scale needs all channels of its token, so ``i`` is whole."""
    (shape,) = operand_shapes(node)
    builder = ir.RuleBuilder()
    tokens, channels = builder.dims(shape[:-1]), builder.whole(shape[-1])
    return builder.rule([[*tokens, channels]], [[*tokens, channels], [*tokens, ((),)]])


def scaled_linear_rule(node: fx.Node) -> ir.FactorRule:
    """``b s i, b s 1, o i, o, o -> b s o``, as ``linear``: ``i`` is summed, and the bias is added once."""
    codes, _, weight, *_ = shapes = operand_shapes(node)
    builder = ir.RuleBuilder()
    tokens, channels, out = builder.dims(codes[:-1]), builder.summed(codes[-1]), builder.factor(weight[0])
    operands = [[*tokens, channels], [*tokens, ((),)], [out, channels], [out], [out]][: len(shapes)]
    return builder.rule(operands, [[*tokens, out]], addends=(4,) if len(shapes) == 5 else ())


def _linear_flops(node: fx.Node) -> int:
    codes, _, weight, *_ = operand_shapes(node)
    return 2 * math.prod(codes) * weight[0]


quantize_tokens_op = torch.ops.fv.quantize_tokens.default
scaled_linear_op = torch.ops.fv.scaled_linear.default
ir.ops.registry.register(ir.OpDef(quantize_tokens_op, "fv.quantize_tokens", rule=quantize_tokens_rule))
ir.ops.registry.register(ir.OpDef(scaled_linear_op, "fv.scaled_linear", rule=scaled_linear_rule, flops=_linear_flops))
