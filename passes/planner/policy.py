"""What a mesh axis may shard. The names are the user's: ``Parallel(sp=4, tp=2, cfg=2)``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AxisPolicy:
    """Limits of one axis; within them the cost decides.

    Attributes:
        whole_params: params stay whole on every rank; only activations are sharded.
        divided_matmuls_shard_params: a matmul with a param is divided by cutting that param, or not at all.
        batch_only: only what derives from the first dim of the inputs is sharded.
    """

    whole_params: bool = False
    divided_matmuls_shard_params: bool = False
    batch_only: bool = False


POLICIES: dict[str, AxisPolicy] = {
    "sp": AxisPolicy(whole_params=True),
    "tp": AxisPolicy(divided_matmuls_shard_params=True),
    "cfg": AxisPolicy(whole_params=True, batch_only=True),
    "dp": AxisPolicy(whole_params=True, batch_only=True),
}
