"""``fv.norm_rotary``: queries or keys, normalized and turned by their positions, in one pass over memory.

A rotary embedding (Su et al., "RoFormer", 2021) turns pairs of channels by angles that depend on the position. Models
pair neighbours or channels half a head apart, write the turn with real or with complex numbers, and normalize before
it per head or over all heads; all are this one op. On CUDA it is one Triton kernel with everything in fp32; elsewhere
the ops run one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, operand_type
from fastvideo_ir.ops.custom import custom_op
from fastvideo_ir.ops.define import broadcast

from .modulated_norm import has_kernel, normalized
from .quantization import widened

_LARGEST_TILE = 8192
"""Elements that one program of the kernel holds at most."""


def rotary_fits(shape: tuple[int, ...], joint: bool) -> bool:
    """Whether what one program of the kernel must hold of ``[…, rows, channels]`` fits into its registers."""
    rows, channels = (1 << (size - 1).bit_length() for size in shape[-2:])
    return (rows if joint else 1) * channels <= _LARGEST_TILE


@custom_op("fv::norm_rotary")
def norm_rotary(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: str,
    joint: bool,
    eps: float,
    interleaved: bool,
    dtype: torch.dtype,
) -> Tensor:
    """``a' = a · cos − b · sin, b' = b · cos + a · sin`` for the pairs (a, b) of the normalized ``x``.

    Args:
        x: ``[…, rows, channels]`` of at most four dims; channels are even.
        cos: broadcastable to ``x``, with one value per channel or per pair.
        sin: likewise.
        weight: of the norm, ``[channels]``, or ``[rows · channels]`` where ``joint``; None for one.
        bias: likewise; None for zero.
        norm: ``rms``, ``layer`` or ``none``.
        joint: normalize over rows and channels together, not each row.
        eps: of the norm.
        interleaved: pairs are neighbours, not half the channels apart.
        dtype: of the result.

    Returns:
        Like ``x``, contiguous.
    """
    if has_kernel(x):
        from .rotary_kernel import rotate_rows

        out = x.new_empty(x.shape, dtype=dtype)
        rotate_rows(x, cos, sin, weight, bias, norm, joint, eps, interleaved, out)
        return out
    value = widened(x)
    if norm != "none":
        value = normalized(value, (-2, -1) if joint else (-1,), eps, norm == "rms")
    shape = x.shape[-2:] if joint else x.shape[-1:]
    value = value if weight is None else value * widened(weight).reshape(shape)
    value = value if bias is None else value + widened(bias).reshape(shape)
    first, second = _pairs(value, interleaved)
    (c, d), (s, t) = (_table(table, x.shape[-1], interleaved) for table in (cos, sin))
    turned = first * c - second * s, second * d + first * t
    return torch.stack(turned, -1 if interleaved else -2).flatten(-2).to(dtype).contiguous()


def _pairs(value: Tensor, interleaved: bool) -> tuple[Tensor, ...]:
    return value.reshape(*value.shape[:-1], value.shape[-1] // 2, 2).unbind(-1) if interleaved else value.chunk(2, -1)


def _table(table: Tensor, channels: int, interleaved: bool) -> tuple[Tensor, ...]:
    wide = widened(table)
    return _pairs(wide, interleaved) if table.shape[-1] == channels else (wide, wide)


@norm_rotary.register_fake
def _(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: str,
    joint: bool,
    eps: float,
    interleaved: bool,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


def norm_rotary_rule(node: fx.Node) -> ir.FactorRule:
    """``… h d, … d, … d, d -> … h d``: channels are whole, and rows too where they are normalized together."""
    arguments = bind(node)
    shape = operand_type(arguments["x"]).shape
    builder = ir.RuleBuilder()
    lead = builder.dims(shape[:-1])
    if arguments["joint"]:
        lead[-1] = builder.whole(shape[-2])
    dims = [*lead, builder.whole(shape[-1])]
    operands = [dims]
    for name in ("cos", "sin"):
        table = operand_type(arguments[name]).shape
        operands.append([*broadcast(table[:-1], lead, shape[:-1]), builder.whole(table[-1])])
    for name in ("weight", "bias"):
        if arguments[name] is not None:
            operands.append([builder.whole(operand_type(arguments[name]).shape[0])])
    return builder.rule(operands, [dims])


norm_rotary_op = torch.ops.fv.norm_rotary.default
ir.ops.registry.register(ir.OpDef(norm_rotary_op, "fv.norm_rotary", rule=norm_rotary_rule))
