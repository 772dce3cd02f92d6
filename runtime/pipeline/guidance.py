"""Guidance: which scales a request asks for."""

from __future__ import annotations

import math

from ...frontends.families import Family
from .state import GenerationRequest


def cfg_scale(family: Family, request: GenerationRequest) -> float:
    """The scale of classifier-free guidance, which is on above 1."""
    if family.guidance == "embedded":
        return request.true_cfg_scale or 1.0
    return request.guidance_scale


def is_guided(family: Family, request: GenerationRequest) -> bool:
    """Whether every step asks the denoiser about the negative prompt too."""
    return cfg_scale(family, request) > 1.0


def second_scale(request: GenerationRequest) -> float:
    """The scale of the second denoiser."""
    return request.guidance_scale if request.guidance_scale_2 is None else request.guidance_scale_2


def dynamic_scale(scale: float, timestep: float, steps: int) -> float:
    """A scale that changes along a cosine, as ``use_dynamic_cfg`` of diffusers' CogVideoXPipeline."""
    return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2
