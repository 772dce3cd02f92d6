"""The four video and image DiTs of diffusers that every suite of this project runs, as classes of the zoo."""

from __future__ import annotations

from functools import partial

from ..models import case
from .cases import ZooCase

EVERYDAY: tuple[ZooCase, ...] = (
    ZooCase("Wan", partial(case, "wan"), casts="norms and modulation", odd_heads=9),
    ZooCase("HunyuanVideo", partial(case, "hunyuan"), casts="norms and rotary embedding", odd_heads=10),
    ZooCase("LTX", partial(case, "ltx"), casts="rotary embedding", odd_heads=12),
    ZooCase("Flux", partial(case, "flux"), casts="rotary embedding", odd_heads=9),
)
