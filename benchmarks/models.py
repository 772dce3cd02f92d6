"""Full-size diffusion transformers with random weights, and inputs for them. Shapes are as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """One model at one size.

    Attributes:
        build: makes the model on the default device, in float32.
        inputs: makes the arguments of one call from a generator; tensors on that generator's device.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, torch.dtype], Inputs]


def _wan(layers: int, heads: int, ffn: int) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(num_attention_heads=heads, num_layers=layers, ffn_dim=ffn)


def _wan_inputs(latent: tuple[int, int, int], text: int = 512, width: int = 4096) -> Callable[..., Inputs]:
    def make(random: torch.Generator, dtype: torch.dtype) -> Inputs:
        return {
            "hidden_states": _normal(random, dtype, 1, 16, *latent),
            "timestep": torch.randint(1, 1000, (1,), generator=random, device=random.device),
            "encoder_hidden_states": _normal(random, dtype, 1, text, width),
            "return_dict": False,
        }

    return make


def _hunyuan() -> nn.Module:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel()


def _hunyuan_inputs(random: torch.Generator, dtype: torch.dtype) -> Inputs:
    mask = torch.zeros(1, 256, dtype=dtype, device=random.device)
    mask[:, :77] = 1
    return {
        "hidden_states": _normal(random, dtype, 1, 16, 33, 90, 160),
        "timestep": torch.randint(1, 1000, (1,), generator=random, device=random.device),
        "encoder_hidden_states": _normal(random, dtype, 1, 256, 4096),
        "encoder_attention_mask": mask,
        "pooled_projections": _normal(random, dtype, 1, 768),
        "guidance": torch.full((1,), 6016.0, dtype=dtype, device=random.device),
        "return_dict": False,
    }


def _ltx() -> nn.Module:
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel()


def _ltx_inputs(random: torch.Generator, dtype: torch.dtype) -> Inputs:
    frames, height, width = 16, 16, 22
    return {
        "hidden_states": _normal(random, dtype, 1, frames * height * width, 128),
        "encoder_hidden_states": _normal(random, dtype, 1, 128, 4096),
        "timestep": torch.randint(1, 1000, (1,), generator=random, device=random.device),
        "encoder_attention_mask": torch.ones(1, 128, dtype=torch.int64, device=random.device),
        "num_frames": frames,
        "height": height,
        "width": width,
        "return_dict": False,
    }


def _cogvideox() -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True, sample_width=90, sample_height=60
    )


def _cogvideox_inputs(random: torch.Generator, dtype: torch.dtype) -> Inputs:
    """With guidance: a batch of two."""
    angles = torch.rand(13 * 30 * 45, 32, generator=random, device=random.device) * 6
    angles = angles.repeat_interleave(2, dim=1)
    return {
        "hidden_states": _normal(random, dtype, 2, 13, 16, 60, 90),
        "encoder_hidden_states": _normal(random, dtype, 2, 226, 4096),
        "timestep": torch.randint(1, 1000, (1,), generator=random, device=random.device).expand(2),
        "image_rotary_emb": (angles.cos(), angles.sin()),
        "return_dict": False,
    }


def _flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


def _flux_inputs(random: torch.Generator, dtype: torch.dtype) -> Inputs:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    positions = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
    return {
        "hidden_states": _normal(random, dtype, 1, 4096, 64),
        "encoder_hidden_states": _normal(random, dtype, 1, 512, 4096),
        "pooled_projections": _normal(random, dtype, 1, 768),
        "timestep": torch.rand((1,), generator=random, device=random.device).to(dtype),
        "img_ids": positions.to(random.device, dtype),
        "txt_ids": torch.zeros(512, 3, device=random.device, dtype=dtype),
        "guidance": torch.full((1,), 3.5, device=random.device),
        "return_dict": False,
    }


def _normal(random: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random, device=random.device, dtype=dtype)


WORKLOADS: dict[str, Workload] = {
    "wan2.1-1.3b/480p": Workload(lambda: _wan(30, 12, 8960), _wan_inputs((21, 60, 104))),
    "wan2.1-1.3b/480p-49-frames": Workload(lambda: _wan(30, 12, 8960), _wan_inputs((13, 60, 104))),
    "wan2.1-1.3b/480p-short-text": Workload(lambda: _wan(30, 12, 8960), _wan_inputs((21, 60, 104), text=77)),
    "wan2.1-14b/480p": Workload(lambda: _wan(40, 40, 13824), _wan_inputs((21, 60, 104))),
    "wan2.1-14b/720p": Workload(lambda: _wan(40, 40, 13824), _wan_inputs((21, 90, 160))),
    "hunyuanvideo/720p": Workload(_hunyuan, _hunyuan_inputs),
    "ltx-video/512p": Workload(_ltx, _ltx_inputs),
    "cogvideox-5b/480p": Workload(_cogvideox, _cogvideox_inputs),
    "flux.1-dev/1024": Workload(_flux, _flux_inputs),
    "wan-tiny/64p": Workload(lambda: _wan(3, 2, 128), _wan_inputs((3, 8, 8), text=16)),
    "wan-tiny/48p": Workload(lambda: _wan(3, 2, 128), _wan_inputs((3, 6, 8), text=16)),
}


def build(workload: Workload, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model with random weights in ``dtype``, apart from modules that it keeps in float32, as when it is loaded."""
    with torch.device(device):
        model = workload.build()
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    random = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        with torch.no_grad():  # zero-initialised layers would hide errors
            scale = 0.02 if parameter.ndim > 1 else 0.01
            parameter.copy_(
                torch.randn(parameter.shape, generator=random, device=device) * scale + (parameter.ndim == 1)
            )
        if not any(part in name for part in keep):
            parameter.data = parameter.data.to(dtype)
    return model.eval()
