"""fastvideo: plain PyTorch diffusion transformers, compiled onto several GPUs.

>>> compiled = fastvideo.compile(model, num_gpus=4)
>>> video = fastvideo.VideoGenerator.from_pretrained(path, num_gpus=4).generate_video("a cat on a surfboard")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvideo_ir import Pass, Program, Rewriter, Stage
    from fastvideo_ir.errors import FastVideoError

    from .backends.attention import AttentionBackend, AttentionSite, No, SlidingTile, Yes
    from .compiler import CompiledModel
    from .entry import compile
    from .extension import register_attention_backend, register_op, register_pass
    from .frontends.own_models import register_model
    from .layers import Backend, DistributedAttention, attention
    from .parallel import Parallel
    from .pipeline_compiler import CompiledPipeline
    from .pipeline_config import PipelineConfig
    from .program_planner import IdleRanksWarning
    from .runtime.pipeline import StepInfo
    from .sampling_param import SamplingParam
    from .video_generator import VideoGenerator
    from .video_result import VideoResult

_HOMES = {
    "AttentionBackend": ".backends.attention",
    "AttentionSite": ".backends.attention",
    "Backend": ".layers",
    "CompiledModel": ".compiler",
    "CompiledPipeline": ".pipeline_compiler",
    "DistributedAttention": ".layers",
    "FastVideoError": "fastvideo_ir.errors",
    "IdleRanksWarning": ".program_planner",
    "No": ".backends.attention",
    "Parallel": ".parallel",
    "Pass": "fastvideo_ir",
    "PipelineConfig": ".pipeline_config",
    "Program": "fastvideo_ir",
    "Rewriter": "fastvideo_ir",
    "SamplingParam": ".sampling_param",
    "SlidingTile": ".backends.attention",
    "Stage": "fastvideo_ir",
    "StepInfo": ".runtime.pipeline",
    "VideoGenerator": ".video_generator",
    "VideoResult": ".video_result",
    "Yes": ".backends.attention",
    "attention": ".layers",
    "compile": ".entry",
    "register_attention_backend": ".extension",
    "register_model": ".frontends.own_models",
    "register_op": ".extension",
    "register_pass": ".extension",
}
"""Public names and where they live; loaded when first used, so that the command line answers at once."""

__version__ = "0.1.0"
__all__ = [
    "AttentionBackend",
    "AttentionSite",
    "Backend",
    "CompiledModel",
    "CompiledPipeline",
    "DistributedAttention",
    "FastVideoError",
    "IdleRanksWarning",
    "No",
    "Parallel",
    "Pass",
    "PipelineConfig",
    "Program",
    "Rewriter",
    "SamplingParam",
    "SlidingTile",
    "Stage",
    "StepInfo",
    "VideoGenerator",
    "VideoResult",
    "Yes",
    "attention",
    "compile",
    "register_attention_backend",
    "register_model",
    "register_op",
    "register_pass",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
