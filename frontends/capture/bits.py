"""Bitwise comparison of results."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def compare(results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> str | None:
    """What differs between two rows of tensors, in words; None where they are equal bit for bit (nan equals nan)."""
    if len(results) != len(expected):
        return f"there are {len(results)} results instead of {len(expected)}"
    for index, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if (result.shape, result.dtype) != (wanted.shape, wanted.dtype):
            return f"result {index} is {result.dtype}{list(result.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
        equal = (result == wanted) | ((result != result) & (wanted != wanted))
        if not bool(equal.all()):
            count, worst = int((~equal).sum()), max_difference([result], [wanted])
            return f"result {index} differs in {count} of {equal.numel()} elements (max {worst:.3g})"
    return None


def max_difference(results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Largest absolute difference; nan where one is not finite and the other is."""
    worst = 0.0
    for result, wanted in zip(results, expected, strict=True):
        if result.shape != wanted.shape:
            return float("nan")
        wide = torch.complex128 if wanted.is_complex() else torch.float64
        difference = (result.to(wide) - wanted.to(wide)).abs()
        difference = difference[~((result != result) & (wanted != wanted))]
        worst = max(worst, float(difference.max())) if difference.numel() else worst
    return worst
