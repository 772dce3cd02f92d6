"""Denoisers of one's own, and settings in files: who takes what, whose value goes where, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo import Parallel, PipelineConfig, SamplingParam, VideoGenerator, register_model
from fastvideo.frontends import loading, own_models

from .small_request import SMALL
from .test_parity import distance


class Small(nn.Module):
    """Told of everything."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.mix, self.out = nn.Linear(16 + 64 + 1, width), nn.Linear(width, 16)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        x = hidden_states.movedim(1, -1)
        text = encoder_hidden_states.mean(1)[:, None, None, None].expand(*x.shape[:-1], -1)
        time = timestep.to(x.dtype)[:, None, None, None, None].expand(*x.shape[:-1], 1) / 1000
        return self.out(torch.tanh(self.mix(torch.cat([x, text, time], -1)))).movedim(-1, 1)


class LatentsAlone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.3 * x


class NeedsMore(nn.Module):
    def forward(self, hidden_states: Tensor, depth_map: Tensor) -> Tensor:
        return hidden_states


class TakesNothing(nn.Module):
    def forward(self, *, scale: float = 1.0) -> Tensor:
        return torch.zeros(1)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_models, "_registered", {})


def latents(generator: VideoGenerator, **changes: Any) -> Tensor:
    request = {**SMALL, "num_inference_steps": 2, "save_video": False, "return_latents": True, **changes}
    with generator:
        found = generator.generate_video(**request).latents
    assert found is not None
    return found


def test_a_class_and_its_weights(folder: Path, tmp_path: Path) -> None:
    trained = Small(width=12)
    save_model(trained, str(tmp_path / "weights.safetensors"))
    options = {"model_config": {"width": 12}, "pipeline": folder, "device": "cpu"}
    weights = tmp_path / "weights.safetensors"
    one = latents(VideoGenerator(model_class=Small, model_weights=weights, **options))
    two = latents(VideoGenerator(model_class=Small, model_weights=weights, **options, num_gpus=2))
    assert distance(two, one) < 1e-5
    with torch.random.fork_rng(devices=[]):
        other = latents(VideoGenerator(model_class=Small, **{**options, "model_config": {"width": 9}}))
    assert distance(other, one) > 1e-2
    another_prompt = latents(VideoGenerator(model_class=Small, model_weights=weights, **options), prompt="a dog")
    assert distance(another_prompt, one) > 1e-6


def test_a_registered_name(folder: Path) -> None:
    register_model("my-model", LatentsAlone, pipeline=folder)
    with pytest.warns(UserWarning, match=r"LatentsAlone\.forward takes no timestep, encoder_hidden_states: it is not"):
        generator = VideoGenerator.from_pretrained("my-model", device="cpu")
    start = latents(generator)
    assert torch.isfinite(start).all() and "LatentsAlone" in generator.explain()


def test_wrong_models(folder: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pt")
    save_model(Small(5), str(tmp_path / "other.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "empty").mkdir()
    wrong_argument, wrong_file = ir.errors.InvalidArgumentError, ir.errors.PipelineLoadError
    for error, message, options in (
        (wrong_argument, "model_class must be a subclass of torch.nn.Module", {"model_class": Small(4)}),
        (wrong_argument, r"VideoGenerator.from_pretrained takes a folder", {"model_class": "a/folder"}),
        (wrong_argument, "NeedsMore.forward needs depth_map, which a wan2.1-t2v", {"model_class": NeedsMore}),
        (wrong_argument, "TakesNothing.forward takes no latents", {"model_class": TakesNothing}),
        (wrong_argument, r"did you mean 'num_gpus'", {"num_gpu": 2}),
        (wrong_file, "no Small can be made: TypeError", {"model_config": {"depth": 3}}),
        (wrong_file, "nothing.safetensors' do not exist", {"model_weights": tmp_path / "nothing.safetensors"}),
        (wrong_file, "weights.pt' are no safetensors file", {"model_weights": tmp_path / "weights.pt"}),
        (wrong_file, "empty' holds no safetensors", {"model_weights": tmp_path / "empty"}),
        (wrong_file, "broken.safetensors' is truncated", {"model_weights": tmp_path / "broken.safetensors"}),
        (
            wrong_file,
            r"'mix.bias' is \(5,\), the config says \(8,\)",
            {"model_weights": tmp_path / "other.safetensors"},
        ),
    ):
        with pytest.raises(error, match=message):
            VideoGenerator(**{"model_class": Small, "pipeline": folder, "device": "cpu", **options})
    register_model("taken", Small)
    for name in ("owner/name", "", "taken"):
        with pytest.raises(wrong_argument, match=r"cannot be the name of a model|is registered already"):
            register_model(name, LatentsAlone)


def test_whose_value_goes_first(copy: Path, tmp_path: Path) -> None:
    """Built in < shipped with the weights < file < keyword."""
    (copy / "fastvideo.json").write_text(json.dumps({"sampling": {"fps": 7, "guidance_scale": 2.5}, "flow_shift": 9}))
    assert SamplingParam(copy).num_frames == 81 and SamplingParam(copy).fps == 7
    SamplingParam(fps=8, seed=3, prompt="日落").dump(tmp_path / "run.yaml")
    stored = SamplingParam.load(tmp_path / "run.yaml", copy, seed=4)
    assert (stored.fps, stored.guidance_scale, stored.seed, stored.prompt) == (8, 2.5, 4, "日落")
    stored.dump(tmp_path / "again.json")
    assert SamplingParam.load(tmp_path / "again.json").given() == stored.given()

    opened = loading.open_pipeline(copy)
    assert opened.preset.values["fps"] == 7 and opened.scheduler_overrides(None) == {"flow_shift": 9.0}
    settings = {"num_gpus": 2, "parallel": Parallel(sp=2), "executor": "simulated", "flow_shift": 4}
    config = PipelineConfig(**settings, dtype=torch.float64)
    config.dump(tmp_path / "load.yaml")
    assert PipelineConfig.load(tmp_path / "load.yaml") == PipelineConfig(**settings, dtype="float64")
    with VideoGenerator.from_pretrained(copy, device="cpu", config=tmp_path / "load.yaml", dtype="float32") as made:
        parts = made._pipeline.context.components
        assert parts["scheduler"].value.config.flow_shift == 4.0 and parts["transformer"].dtype == torch.float32
        assert made.compiled_models[0]._settings.executor == "simulated"


def test_wrong_files(copy: Path, tmp_path: Path) -> None:
    for content, message in (
        ({"sampling": {"num_frame": 5}}, "unknown entry of '.*fastvideo.json' 'num_frame'.*did you mean 'num_frames'"),
        ({"sampler": {}}, "did you mean 'sampling'"),
        ({"sampling": 3}, "'sampling' in '.*fastvideo.json' is no mapping"),
    ):
        (copy / "fastvideo.json").write_text(json.dumps(content))
        with pytest.raises(ir.errors.PipelineLoadError, match=message):
            loading.open_pipeline(copy)
    (tmp_path / "run.yaml").write_text("num_gpu: 2\nheigth: 3\n")
    with pytest.raises(ir.errors.UnknownNameError, match="unknown entry of a pipeline config 'num_gpu'"):
        PipelineConfig.load(tmp_path / "run.yaml")
    with pytest.raises(ir.errors.UnknownNameError, match="unknown sampling parameter 'num_gpu'"):
        SamplingParam.load(tmp_path / "run.yaml")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"ends in '\.toml', expected"):
        SamplingParam(fps=3).dump(tmp_path / "run.toml")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"a Tensor cannot be written to a file"):
        SamplingParam(image=torch.zeros(3, 4, 4)).dump(tmp_path / "run.json")
