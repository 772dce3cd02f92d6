"""FlexAttention in the open: while a model is traced, its attention is written out as matmuls and a softmax.

Torch hides it behind a compiled higher-order op, and maps the user's functions over single scores. They are pointwise
by contract, so here they are called once, on scores and indices that broadcast. Numbers are those of torch's own
unfused form. No ``vmap`` is left, which tracers of some versions put into the graph as calls that are no ops.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch

_MODULE = "torch.nn.attention.flex_attention"


@contextmanager
def open_flex_attention() -> Iterator[None]:
    """While entered, ``flex_attention`` and ``create_block_mask`` run as plain tensor ops."""
    module = sys.modules.get(_MODULE)
    with ExitStack() as patches:
        if module is not None:
            from torch._dynamo import _trace_wrapped_higher_order_op as indexing
            from torch._higher_order_ops.flex_attention import math_attention

            for owner, name, value in (
                (module, "flex_attention_hop", math_attention),
                (module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True),
                (module, "_vmap_for_bhqkv", _broadcast_over_scores),
                (module, "_ordered_to_dense", _marked_blocks),
                (indexing, "TransformGetItemToIndex", nullcontext),
            ):
                patches.enter_context(mock.patch.object(owner, name, value))
        yield


def _broadcast_over_scores(
    function: Callable[..., torch.Tensor], prefix: tuple[int | None, ...], suffix: tuple[int | None, ...] = (), **_: Any
) -> Callable[..., torch.Tensor]:
    """``function`` of single scores, over all of them: ``[batch, heads, queries, keys]``.

    Args:
        function: takes a score where there is a prefix, then the four indices, then buffers.
        prefix: one entry for the scores, or none.
        suffix: one entry per buffer, which is passed as it is.
    """

    def over_all(*arguments: torch.Tensor) -> torch.Tensor:
        scores, indices = arguments[: len(prefix)], arguments[len(prefix) : len(prefix) + 4]
        shape = [index.numel() for index in indices]
        spread = [index.reshape([-1 if dim == at else 1 for dim in range(4)]) for at, index in enumerate(indices)]
        return function(*scores, *spread, *arguments[len(prefix) + 4 :]).expand(shape)

    return over_all


def _marked_blocks(
    num_blocks_in_row: torch.Tensor, col_indices: torch.Tensor, num_cols: int | None = None
) -> torch.Tensor:
    """The blocks that rows of a block mask list, as ones in a matrix: int32 ``[…, rows, num_cols]``.

    Args:
        num_blocks_in_row: how many of a row's entries count, ``[…, rows]``.
        col_indices: columns of blocks, ``[…, rows, entries]``.
        num_cols: columns of the matrix; as many as there are entries where torch does not say.
    """
    entries = col_indices.shape[-1]
    columns = entries if num_cols is None else num_cols
    counts = torch.arange(entries, device=col_indices.device) < num_blocks_in_row[..., None]
    beside = torch.where(counts, col_indices, columns).long()
    marked = col_indices.new_zeros(*col_indices.shape[:-1], columns + 1, dtype=torch.int32)
    return marked.scatter(-1, beside, 1)[..., :columns]
