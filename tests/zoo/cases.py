"""What an entry of the zoo is: a model with a small configuration, its inputs, and how exactly it must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Inputs, ModelCase

EXACT, CAST_INSIDE, SINGLE = 1e-10, 1e-6, 1e-4
"""Tolerances: in fp64 for a model that stays there, for one that casts a part of itself to fp32, and in fp32."""


@dataclass(frozen=True)
class Draw:
    """Draws the inputs of one call: seeds differ in every value and agree in shapes."""

    seed: int
    dtype: torch.dtype
    batch: int
    generator: torch.Generator

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def tokens(self, *shape: int) -> Tensor:
        """``randn`` with a batch dim in front."""
        return self.randn(self.batch, *shape)

    def timestep(self) -> Tensor:
        return torch.full((self.batch,), 500 + 37 * self.seed)

    def real_timestep(self) -> Tensor:
        return self.timestep().to(self.dtype)

    def fraction(self) -> Tensor:
        """A timestep between 0 and 1."""
        return torch.full((self.batch,), 0.5 + 0.1 * self.seed, dtype=self.dtype)

    def scalar(self, value: float) -> Tensor:
        return torch.full((self.batch,), value + 0.5 * self.seed, dtype=self.dtype)

    def mask(self, length: int) -> Tensor:
        """Which tokens are real: all but a few at the end, another number for every seed."""
        lengths = torch.tensor([[length - 2 - (self.seed + row) % 3] for row in range(self.batch)])
        return (torch.arange(length)[None] < lengths).long()

    def same_mask(self, length: int) -> Tensor:
        """The same for every seed, for models that read it into Python and would be captured and planned twice."""
        return (torch.arange(length)[None] < length - 3).long().expand(self.batch, -1)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, (self.batch, *shape), generator=self.generator)

    def ids(self, rows: int, columns: int) -> Tensor:
        """Positions of an image's tokens, ``(rows · columns, 3)``."""
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        return torch.cat([torch.zeros(rows * columns, 1), grid.reshape(-1, 2) + self.seed], dim=1).to(self.dtype)


@dataclass(frozen=True, eq=False)
class ZooCase:
    """One class of the zoo.

    Attributes:
        case: builds the model and its inputs.
        tolerance: ``max |a − b| / max |b|`` for every output.
        casts: what the model computes in fp32, where the tolerance is not ``EXACT``.
        dtype: fp64, but for models that do not run in it.
        replicated: mesh to the op that cannot be divided there, where the ranks repeat each other's FLOPs.
    """

    case: ModelCase
    tolerance: float
    casts: str
    dtype: torch.dtype
    replicated: dict[str, str]

    @property
    def name(self) -> str:
        return self.case.name


def entry(
    name: str,
    make: Callable[[int], nn.Module],
    inputs: Callable[[Draw], dict[str, Any]],
    *,
    heads: int = 8,
    casts: str = "",
    dtype: torch.dtype = torch.float64,
    replicated: dict[str, str] | None = None,
) -> ZooCase:
    """``make`` takes the number of heads. ``casts`` says what the model computes in fp32, if anything."""

    def draw(seed: int, dtype: torch.dtype, batch: int, generator: torch.Generator) -> Inputs:
        return inputs(Draw(seed, dtype, batch, generator))

    tolerance = SINGLE if dtype is torch.float32 else CAST_INSIDE if casts else EXACT
    return ZooCase(ModelCase(name, heads, make, draw), tolerance, casts, dtype, replicated or {})
