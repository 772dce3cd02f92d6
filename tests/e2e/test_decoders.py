"""Decoders of VAEs over ranks: they equal eager, and each rank does its share of the convolutions."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from tests.models import stir

from .measuring import count_work

Build = Callable[[], nn.Module]


class Decode(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents, return_dict=False)[0]  # type: ignore[operator, no-any-return]


def wan() -> nn.Module:
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def image() -> nn.Module:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return diffusers.AutoencoderKL(block_out_channels=(8, 16, 16), latent_channels=4, norm_num_groups=4, **blocks)


def ltx() -> nn.Module:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )


def cogvideox() -> nn.Module:
    return diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
    )


def hunyuan_video() -> nn.Module:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


FRAMES = (1, 4, 2, 11, 7)
DECODERS: dict[str, tuple[Build, tuple[int, ...], int, float]] = {
    "wan": (wan, FRAMES, 3, 1e-10),
    "image": (image, (1, 4, 13, 7), 2, 1e-10),
    "ltx": (ltx, FRAMES, 2, 1e-6),  # it normalizes in fp32
    "cogvideox": (cogvideox, FRAMES, 2, 1e-10),
    "hunyuan-video": (hunyuan_video, FRAMES, 2, 1e-10),  # repeats borders
}


@pytest.mark.filterwarnings("error::fastvideo.IdleRanksWarning")
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_are_divided_exactly(name: str) -> None:
    build, shape, ranks, tolerance = DECODERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Decode(build()).double().eval()
        stir(model)
        latents = torch.randn(shape, dtype=torch.float64)
    expected: list[Tensor] = []
    with torch.no_grad():
        eager = count_work(lambda: expected.append(model(latents))).total[None]
    compiled = fastvideo.compile(model, num_gpus=ranks, executor="simulated", device="cpu", verify=False)
    found = compiled(latents)
    assert float((expected[0].abs() < 1).double().mean()) > 0.5  # some decoders clamp
    assert float((found - expected[0]).abs().max() / expected[0].abs().max()) <= tolerance
    work = count_work(lambda: compiled(latents)).total
    assert max(work.values()) <= 1.1 * eager / ranks
    (program,) = compiled.programs
    params = [ir.tensor_type(node) for node in program.param_nodes]
    assert not any(kind.placed_axes for kind in params)  # height or width is cut, and no weight
