"""``fv.linear_gelu``: a linear layer and its tanh GELU in one GEMM, with bias and activation in the epilogue.

The activation is computed on the fp32 accumulators, before they are rounded, and its operand never reaches memory. On
CUDA in half precision cuBLASLt does it (``aten::_addmm_activation``); elsewhere the two ops run one after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

import fastvideo_ir as ir
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import operand_shapes
from fastvideo_ir.ops.matmul import linear_flops


@custom_op("fv::linear_gelu")
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x @ weight.T + bias, approximate="tanh")``.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``.
    """
    if x.device.type == "cuda" and x.dtype in (torch.float16, torch.bfloat16) and x.numel():
        flat: Tensor = torch.ops.aten._addmm_activation(bias, x.reshape(-1, x.shape[-1]), weight.t(), use_gelu=True)
        return flat.view(*x.shape[:-1], weight.shape[0])
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@register_flop_formula(torch.ops.fv.linear_gelu)
def _flops(x: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object) -> int:
    count = 2 * weight[0]
    for size in x:
        count *= size
    return count


def linear_gelu_rule(node: fx.Node) -> ir.FactorRule:
    """``b s i, o i, o -> b s o``; the activation needs the whole sum, so ``i`` is whole."""
    x, weight, _ = operand_shapes(node)
    builder = ir.RuleBuilder()
    batch, out, contracted = builder.dims(x[:-1]), builder.factor(weight[0]), builder.whole(x[-1])
    return builder.rule([[*batch, contracted], [out, contracted], [out]], [[*batch, out]])


linear_gelu_op = torch.ops.fv.linear_gelu.default
ir.ops.registry.register(ir.OpDef(linear_gelu_op, "fv.linear_gelu", rule=linear_gelu_rule, flops=linear_flops))
