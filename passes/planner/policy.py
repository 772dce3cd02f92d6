"""What a mesh axis may shard. The names are the user's: ``Parallel(sp=4, tp=2, cfg=2)``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import fastvideo_ir as ir


@dataclass(frozen=True)
class AxisPolicy:
    """Limits of one axis; within them the cost decides.

    Attributes:
        whole_params: params stay whole on every rank; only activations are sharded.
        divided_matmuls_shard_params: a matmul with a param is divided by cutting that param, or not at all.
        whole_heads: an attention is divided by its queries, never by its heads.
        rings: keys and values may travel around the axis.
        batch_only: only what derives from the first dim of the inputs is sharded, unless a pinned axis is left with too
            much that does not.
        needs: what a program must have for the axis to divide it, for error texts.
    """

    whole_params: bool = False
    divided_matmuls_shard_params: bool = False
    whole_heads: bool = False
    rings: bool = False
    batch_only: bool = False
    needs: str = "tokens, heads or batch entries"


POLICIES: dict[str, AxisPolicy] = {
    "sp": AxisPolicy(whole_params=True, rings=True),
    "ring": AxisPolicy(whole_params=True, whole_heads=True, rings=True, needs="tokens"),
    "tp": AxisPolicy(divided_matmuls_shard_params=True, needs="heads or channels of weights"),
    "cfg": AxisPolicy(whole_params=True, batch_only=True, needs="batch entries"),
    "dp": AxisPolicy(whole_params=True, batch_only=True, needs="batch entries"),
}


def policy_of(axis: str) -> AxisPolicy:
    return POLICIES.get(axis, AxisPolicy())


def refuse_small_batch(mesh: ir.Mesh, shapes: Iterable[tuple[int, ...]]) -> None:
    """Check that the axes which split the batch find one large enough.

    Args:
        mesh: the ranks.
        shapes: of all inputs.

    Raises:
        ShardingError: no input has a leading dim with an entry for every rank.
    """
    axes = [(axis, size) for axis, size in mesh.axes if policy_of(axis).batch_only and size > 1]
    parts = math.prod(size for _, size in axes)
    largest = max((shape[0] for shape in shapes if shape), default=1)
    if largest >= parts:
        return
    if len(axes) == 1:
        (axis, _), fits = axes[0], f"use {axes[0][0]}={largest} or less"
        raise ir.errors.ShardingError(
            f"axis {axis!r} splits the batch over {parts} ranks, but the inputs have a batch of {largest}", hint=fits
        )
    names = " and ".join(f"{axis}={size}" for axis, size in axes)
    raise ir.errors.ShardingError(
        f"{names} split the batch over {parts} ranks, but the inputs have a batch of {largest}",
        hint="use fewer ranks for the batch, or give more samples",
    )
