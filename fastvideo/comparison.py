"""How far an approximate program is from the exact one, on the user's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastvideo_ir.errors import FastVideoError


@dataclass(frozen=True)
class OutputError:
    """One output tensor, a approximate and b exact.

    Attributes:
        shape: of the output.
        max_error: ``max |a − b| / max |b|``.
        relative_l2: ``‖a − b‖ / ‖b‖``.
        cosine: of the angle between a and b as vectors.
    """

    shape: tuple[int, ...]
    max_error: float
    relative_l2: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """What approximate settings change in one call.

    Attributes:
        settings: what is approximate, e.g. ``attention_backend=SAGE_ATTN``; empty where nothing is.
        outputs: one entry per floating point output, in order.
    """

    settings: tuple[str, ...]
    outputs: tuple[OutputError, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"against the exact program: {', '.join(self.settings) or 'nothing is approximate'}"]
        for number, error in enumerate(self.outputs):
            shape = "×".join(map(str, error.shape))
            lines.append(
                f"  output {number} ({shape}): max |a−b|/max|b| {error.max_error:.2e}, "
                f"‖a−b‖/‖b‖ {error.relative_l2:.2e}, cosine {error.cosine:.6f}"
            )
        return "\n".join(lines)


def compare(settings: Sequence[str], approximate: Sequence[Any], exact: Sequence[Any]) -> Comparison:
    """Compare flat outputs; those that are no floating point tensors are left out.

    Raises:
        FastVideoError: a value is not finite, so that no error can be told.
    """
    pairs = [
        (a, b)
        for a, b in zip(approximate, exact, strict=True)
        if isinstance(b, Tensor) and b.is_floating_point() and b.numel()
    ]
    return Comparison(tuple(settings), tuple(_error(number, a, b) for number, (a, b) in enumerate(pairs)))


def _error(number: int, approximate: Tensor, exact: Tensor) -> OutputError:
    for name, value in (("approximate", approximate), ("exact", exact)):
        if not bool(torch.isfinite(value).all()):
            raise FastVideoError(f"output {number} of the {name} program holds NaN or infinity")
    a, b = approximate.flatten().double(), exact.flatten().to(approximate.device).double()
    difference = a - b
    return OutputError(
        shape=tuple(exact.shape),
        max_error=_ratio(difference.abs().max(), b.abs().max()),
        relative_l2=_ratio(difference.norm(), b.norm()),
        cosine=1.0 if torch.equal(a, b) else _ratio(a @ b, a.norm() * b.norm()),
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Zero errors of a zero output are none."""
    return float(part / whole) if bool(whole) else (float("inf") if bool(part) else 0.0)
