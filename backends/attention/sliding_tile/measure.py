"""``fv_attn.window_errors``: what each of several windows would change in an attention, head by head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, operand_type
from fastvideo_ir.ops.attention import attention_flops
from fastvideo_ir.ops.custom import custom_op

from .op import sliding_tile_attention


@custom_op("fv_attn::window_errors")
def window_errors(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    exact: Tensor,
    mask: Tensor | None,
    scale: float | None,
    grid: Sequence[int],
    tile: Sequence[int],
    start: int,
    windows: Sequence[int],
) -> Tensor:
    """Relative error of sliding tile attention, ``‖a − b‖ / ‖b‖`` over a head's tokens and channels, for each window.

    Args:
        q, k, v, mask, scale, grid, tile, start: as :func:`.op.sliding_tile_attention` takes them, in the grid's order.
        exact: what full attention yields, ``[batch, heads, tokens, value_dim]``.
        windows: three numbers for each window that is tried, in tiles.

    Returns:
        ``float32[heads, len(windows) // 3]``; the largest error of the batch.
    """
    heads, count = q.shape[1], len(windows) // 3
    if q.numel() == 0:
        return q.new_zeros((heads, count), dtype=torch.float32)
    errors = []
    for at in range(0, len(windows), 3):
        of_all = torch.tensor([windows[at : at + 3]] * heads, dtype=torch.int32, device=q.device)
        out = sliding_tile_attention(q, k, v, of_all, mask, scale, grid, tile, start, False)
        difference = (out - exact).float().norm(dim=(2, 3))
        errors.append((difference / exact.float().norm(dim=(2, 3)).clamp_min(1e-30)).amax(0))
    return torch.stack(errors, 1)


@window_errors.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    exact: Tensor,
    mask: Tensor | None,
    scale: float | None,
    grid: Sequence[int],
    tile: Sequence[int],
    start: int,
    windows: Sequence[int],
) -> Tensor:
    return q.new_empty((q.shape[1], len(windows) // 3), dtype=torch.float32)


def window_errors_rule(node: fx.Node) -> ir.FactorRule:
    """``b h s d, b h t d, b h t e, b h s e -> h w``: heads are parallel where they are not grouped."""
    arguments = bind(node)
    kinds = [operand_type(arguments[name]).shape for name in ("q", "k", "v", "exact")]
    builder = ir.RuleBuilder()
    heads = builder.factor(kinds[0][1]) if kinds[0][1] == kinds[1][1] else None
    operands = [
        [heads if dim == 1 and heads is not None else builder.whole(size) for dim, size in enumerate(shape)]
        for shape in kinds
    ]
    if arguments["mask"] is not None:
        operands.append([builder.whole(size) for size in operand_type(arguments["mask"]).shape])
    count = builder.whole(len(arguments["windows"]) // 3)
    return builder.rule(operands, [[heads if heads is not None else builder.whole(kinds[0][1]), count]])


window_errors_op = torch.ops.fv_attn.window_errors.default
ir.ops.registry.register(
    ir.OpDef(
        window_errors_op,
        "fv_attn.window_errors",
        rule=window_errors_rule,
        flops=attention_flops,
        first=ir.Stage.CANONICAL,
    )
)
