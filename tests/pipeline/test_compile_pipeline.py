"""A whole Diffusers pipeline, compiled in place: the same frames, on ranks that all its modules share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

import fastvideo
import fastvideo_ir as ir
from fastvideo.compiler import CompiledModel
from fastvideo.frontends import loading
from fastvideo.ranks import Ranks
from fastvideo.settings import resolve_settings
from tests.models import stir

from .test_parity import distance


@pytest.fixture
def wan(folder: Path) -> Any:
    opened = loading.open_pipeline(folder)
    pipeline = diffusers.WanPipeline(**{r: opened.load(r, torch.float32, None).value for r in opened.family.roles})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def video(pipeline: Any, **changes: Any) -> np.ndarray:
    request = {"prompt": "a cat", "height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(3)
    return np.asarray(pipeline(**{**request, **changes}, generator=generator, output_type="np").frames)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastvideo.IdleRanksWarning)
        yield


@pytest.mark.filterwarnings("error::fastvideo.IdleRanksWarning")
def test_same_frames_on_processes_that_all_modules_share(wan: Any) -> None:
    expected = video(wan)
    with fastvideo.compile(wan, num_gpus=2, device="cpu", verify=False) as compiled:
        assert np.abs(video(wan) - expected).max() < 1e-4  # whoever holds the pipeline has the compiled one
        assert np.abs(video(compiled, prompt="a dog") - expected).max() > 1e-4
        groups = {id(model._ranks.group) for model in compiled.compiled.values()}
        assert len(groups) == 1 and compiled.transformer is wan.transformer
        meshes = {name: str(model.programs[0].mesh) for name, model in compiled.compiled.items()}
        assert set(meshes.values()) == {"mesh(sp=2)"}
        told = compiled.explain()
        assert all(name in told for name in ("text_encoder\n", "transformer\n", "AutoencoderKLWan.decode on 2 ranks"))
        with torch.no_grad():
            wan.transformer.proj_out.bias += 0.1
        with pytest.raises(ir.errors.InvalidArgumentError, match="weights have changed"):
            video(compiled)
        compiled.update_weights()
        changed = video(compiled)
        (pid,) = compiled.compiled["transformer"]._ranks.group.pids.values()
    assert not Path(f"/proc/{pid}").exists()
    again = video(wan)
    assert "forward" not in vars(wan.transformer) and "decode" not in vars(wan.vae)
    assert np.abs(again - changed).max() < 1e-4 < np.abs(again - expected).max()


def test_a_pipeline_of_no_family(quiet: None) -> None:
    """An image pipeline that nothing here knows, with two encoders, one of which the call leaves out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=4, joint_attention_dim=32, pooled_projection_dim=24, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, shift_factor=0.1,
        )  # fmt: skip
        clip = CLIPTextModel(CLIPTextConfig(vocab_size=99, hidden_size=24, intermediate_size=32, num_hidden_layers=1))
        for model in (transformer, vae):
            stir(model)
    modules = [module.eval() for module in (vae, clip, transformer)]
    pipeline = diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), modules[0], modules[1], None, None, None, modules[2]
    )
    pipeline.set_progress_bar_config(disable=True)
    inputs = {"prompt_embeds": torch.randn(1, 7, 32), "pooled_prompt_embeds": torch.randn(1, 24)}

    def latents() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        found = pipeline(
            **inputs, height=40, width=24, num_inference_steps=2, generator=generator, output_type="latent"
        )
        return found.images

    expected = latents()
    with fastvideo.compile(pipeline, num_gpus=3, executor="simulated", components=["transformer"]) as compiled:
        assert distance(latents(), expected) < 1e-5
        assert list(compiled.compiled) == ["transformer"] and len(compiled.compiled["transformer"].programs) == 1
        assert "forward" not in vars(clip)


class OverlappingDecoder(torch.nn.Module):
    """Adds up windows that overlap: no position of the picture belongs to one rank alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = torch.nn.ConvTranspose3d(channels, 3, (1, 10, 10), (1, 8, 8), (0, 1, 1))

    def forward(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        return self.spread(x)


def test_a_module_that_cannot_be_divided_is_told_of(wan: Any) -> None:
    wan.vae.decoder = OverlappingDecoder(wan.vae.config.z_dim).eval()
    expected = video(wan)
    with fastvideo.compile(wan, num_gpus=2, executor="simulated", components=["vae"], verify=False) as compiled:
        with pytest.warns(fastvideo.IdleRanksWarning, match=r"AutoencoderKLWan\.decode runs on one of 2 ranks: axis"):
            found = video(compiled)
        assert np.abs(found - expected).max() < 1e-5
    with pytest.raises(ir.errors.IdleAxisError):  # asked for itself, it is refused
        fastvideo.compile(torch.nn.Linear(2, 2).eval(), num_gpus=64, executor="simulated")(torch.ones(1, 2))


def test_new_weights_reach_a_module_that_runs_on_one_rank_beside_workers(quiet: None) -> None:
    settings = resolve_settings(2, None, None, "mp", "cpu", None, (), False)
    divided, idle = torch.nn.Linear(4, 4).eval(), torch.nn.Linear(4, 4).eval()
    ranks, tokens, vector = Ranks(), torch.randn(1, 6, 4), torch.randn(1, 4)
    with (
        CompiledModel(divided, settings, ranks, whole_if_idle=True) as first,
        CompiledModel(idle, settings, ranks, whole_if_idle=True) as second,
    ):
        first(tokens), second(vector)
        assert first.programs[0].mesh.num_ranks == 2 and second.programs[0].mesh.num_ranks == 1
        for model, compiled, x in ((divided, first, tokens), (idle, second, vector)):
            model.weight = torch.nn.Parameter(torch.randn(4, 4), requires_grad=False)
            compiled.update_weights()
            assert distance(compiled(x), model(x).detach()) < 1e-5


def test_wrong_requests(wan: Any) -> None:
    for options, message in (
        ({"components": ["transfomer"]}, "unknown module of WanPipeline 'transfomer'.*did you mean 'transformer'"),
        ({"invariant": ["encoder_hidden_states"]}, "invariant= is for one model"),
        ({"num_gpus": 0}, "num_gpus must be an integer of at least 1"),
    ):
        with pytest.raises(ir.errors.InvalidArgumentError, match=message):
            fastvideo.compile(wan, device="cpu", **options)
    assert "forward" not in vars(wan.transformer)
    with pytest.raises(ir.errors.InvalidArgumentError, match="components= is for a pipeline"):
        fastvideo.compile(wan.transformer, components=["transformer"])
    compiled = fastvideo.compile(wan, executor="local", device="cpu")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"\.(forward|decode) of WanPipeline has been replaced"):
        fastvideo.compile(wan, executor="local", device="cpu")
    assert wan.transformer.forward is compiled.compiled["transformer"]  # what was there is left as it was
    compiled.close()
    compiled.close()
    wan.transformer.train()
    with pytest.raises(ir.errors.InvalidArgumentError, match="training mode"):
        fastvideo.compile(wan, executor="local", device="cpu")
    assert all("forward" not in vars(part) for part in (wan.transformer, wan.text_encoder))
