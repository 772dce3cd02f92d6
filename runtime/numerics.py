"""Torch's process-wide numeric settings, which every rank must share: TF32, reduced-precision sums, default dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import fastvideo_ir as ir

_BACKENDS = ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")
_CUDA_FLAGS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


def numeric_settings() -> dict[str, Any]:
    """The settings of this process, JSON-able."""
    return {
        "fp32_precision": {name: _backend(name).fp32_precision for name in _BACKENDS},
        "cuda_matmul": {name: getattr(torch.backends.cuda.matmul, name) for name in _CUDA_FLAGS},
        "default_dtype": ir.types.DTYPE_NAMES[torch.get_default_dtype()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
    }


def apply_numeric_settings(settings: Mapping[str, Any]) -> None:
    """Give this process the settings of another one."""
    for name, precision in settings["fp32_precision"].items():
        _backend(name).fp32_precision = precision
    for name, allowed in settings["cuda_matmul"].items():
        setattr(torch.backends.cuda.matmul, name, allowed)
    torch.set_default_dtype(ir.types.DTYPES_BY_NAME[settings["default_dtype"]])
    if any(numeric_settings()[name] != settings[name] for name in ("deterministic", "deterministic_warn_only")):
        # Only then: it imports Inductor, which takes as long as all else that a process does to start.
        torch.use_deterministic_algorithms(settings["deterministic"], warn_only=settings["deterministic_warn_only"])


def _backend(name: str) -> Any:
    result: Any = torch.backends
    for part in name.split("."):
        result = getattr(result, part)
    return result
