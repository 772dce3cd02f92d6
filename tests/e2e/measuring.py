"""What a run computes and how much, per rank: errors against eager, and work by torch's own FLOP counter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import fastvideo_ir as ir

MOST_WORK = 1.15
"""FLOPs summed over the ranks, as a multiple of eager's."""
MOST_ATTENTION = 1.2
"""A rank's attention, as a multiple of an even share of eager's."""


@dataclass
class Work:
    """FLOPs per rank; eager's stand under rank None. Attention is part of the total."""

    total: Counter[int | None] = field(default_factory=Counter)
    attention: Counter[int | None] = field(default_factory=Counter)


class _InsideAttention(TorchFunctionMode):
    """Knows whether eager is inside ``scaled_dot_product_attention``, whose math kernel is plain matmuls."""

    active = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.active = func is F.scaled_dot_product_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.active = False


def count_work(call: Callable[[], Any]) -> Work:
    """Run ``call`` and count what each rank of the simulated mesh does, or what eager does."""
    work, inside = Work(), _InsideAttention()

    def watched(op: Any, formula: Callable[..., int]) -> Callable[..., int]:
        def count(*args: Any, **kwargs: Any) -> int:
            flops = formula(*args, **kwargs)
            rank = ir.interpreter.current_rank()
            work.total[rank] += flops
            if inside.active or str(op).startswith("fv_attn."):
                work.attention[rank] += flops
            return flops

        count._get_raw = True  # type: ignore[attr-defined]  # the formula takes tensors apart by itself
        return count

    formulas = {op: watched(op, formula) for op, formula in flop_registry.items()}
    # The CPU's flash kernel has no formula; the math kernel's matmuls have.
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        inside,
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
    ):
        call()
    assert counter.get_total_flops() == work.total.total(), "the ranks' work does not add up to torch's count"
    return work


@dataclass(frozen=True)
class Row:
    """One model on one mesh, measured."""

    errors: tuple[float, ...]
    work_ratio: float
    attention_shares: tuple[float, ...]

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.attention_shares)
        return f"error {max(self.errors):.1e}, work {self.work_ratio:.3f} × eager's, attention per rank {shares}"


def attention_share(work: Work, whole: int) -> float:
    """What the busiest rank does of the attention, as a multiple of an even share of ``whole``."""
    ranks = [rank for rank in work.total if rank is not None]
    return max(work.attention[rank] for rank in ranks) * len(ranks) / whole


def measure(outputs: Sequence[Tensor], expected: Sequence[Tensor], work: Work, eager: Work, ranks: int) -> Row:
    """Compare a run on ``ranks`` ranks with eager's."""
    assert eager.attention[None], "eager has no attention that could be counted"
    shares = tuple(work.attention[rank] / eager.attention[None] for rank in range(ranks))
    return Row(errors_of(outputs, expected), work.total.total() / eager.total[None], shares)


def errors_of(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, ...]:
    """``max |a − b| / max |b|`` per tensor; a value that is not finite fails."""
    assert len(outputs) == len(expected)
    errors = []
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.shape == wanted.shape
        assert output.dtype == wanted.dtype
        assert bool(output.isfinite().all()), "an output is not finite"
        assert float(wanted.std()) > 0, "a constant output proves nothing"
        errors.append(float((output - wanted).abs().max() / wanted.abs().max()))
    return tuple(errors)


def check(row: Row, tolerance: float) -> None:
    """The bounds that every compiled model must keep."""
    ranks = len(row.attention_shares)
    assert max(row.errors) <= tolerance, f"the ranks disagree with eager: {row}"
    assert row.work_ratio <= MOST_WORK, f"the ranks repeat each other's FLOPs: {row}"
    assert max(row.attention_shares) <= MOST_ATTENTION / ranks, f"a rank does more than its share of attention: {row}"
    assert sum(row.attention_shares) >= 0.99, f"attention ran where nobody counted it: {row}"


def eager_outputs(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return list(model(**inputs))
