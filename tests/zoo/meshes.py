"""How the zoo is divided: every mesh, and which of them the quick tests pick for which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastvideo import Parallel

from .cases import ZooCase

HEADS = 8
MESHES = {
    "sp=2": Parallel(sp=2),
    "sp=3": Parallel(sp=3),
    "sp=4": Parallel(sp=4),
    "sp=8": Parallel(sp=8),
    "tp=2": Parallel(tp=2),
    "tp=3": Parallel(tp=3),
    "tp=4": Parallel(tp=4),
    "tp=8": Parallel(tp=8),
    "sp=2 tp=2": Parallel(sp=2, tp=2),
    "sp=4 tp=2": Parallel(sp=4, tp=2),
    "cfg=2 sp=2": Parallel(cfg=2, sp=2),
    "ring=2": Parallel(ring=2),
    "sp=2 ring=2": Parallel(sp=2, ring=2),
}
RINGS = ("Wan", "HunyuanVideo", "Flux", "SD3", "einops")
"""Classes that are also divided with keys and values that travel; where an attention is causal, it cannot."""
UNDIVIDED = {9: 2, 10: 4, 12: 8}
"""Number of heads to a number of ranks that does not divide it."""


@dataclass(frozen=True)
class Setting:
    """One way to run a class: a mesh, and the number of heads and the batch of the model that is divided over it."""

    mesh: str
    heads: int = HEADS
    batch: int = 1

    @property
    def parallel(self) -> Parallel:
        return MESHES[self.mesh]

    def __str__(self) -> str:
        return self.mesh if self.heads == HEADS else f"{self.mesh}, {self.heads} heads"


def settings(case: ZooCase) -> list[Setting]:
    """All of a class: those that share a model stand together."""
    guided = [name for name, parallel in MESHES.items() if parallel.cfg > 1]
    rings = [name for name, parallel in MESHES.items() if parallel.ring > 1 and case.name not in RINGS]
    plain = [Setting(name) for name in MESHES if name not in (*guided, *rings)]
    ranks = UNDIVIDED[case.odd_heads]
    odd = [Setting(f"{axis}={ranks}", heads=case.odd_heads) for axis in ("sp", "tp")]
    return [*plain, *odd, *[Setting(name, batch=2) for name in guided if case.batched]]


QUICK = ("sp=3", "tp=2")
EVERYWHERE = ("einops",)
"""Classes whose every setting is quick."""
OTHER_HEADS = ("softmax", "registers", "Hybrid", "CLIPText")


def quick_settings(case: ZooCase) -> list[Setting]:
    """What the quick tests run of a class: one mesh, where three ranks divide neither heads nor tokens.

    The length of its name decides on which axis: classes of one kind stand on both.
    """
    if case.name in EVERYWHERE:
        return settings(case)
    chosen = [Setting(QUICK[len(case.name) % len(QUICK)])]
    if case.name in OTHER_HEADS:
        chosen += [setting for setting in settings(case) if setting.heads != HEADS][:1]
    return chosen


def by_model(chosen: Sequence[Setting]) -> dict[tuple[int, int], list[Setting]]:
    """The settings of each model: heads and batch."""
    groups: dict[tuple[int, int], list[Setting]] = {}
    for setting in chosen:
        groups.setdefault((setting.heads, setting.batch), []).append(setting)
    return groups
