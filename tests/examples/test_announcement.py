"""Every sample of examples/announcement, as the user runs it: a script of its own, with small local weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model

from tests.pipeline.test_video import decode

from .conftest import EXAMPLES, LoadExample

SAMPLES = EXAMPLES / "announcement"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, with settings shipped beside its weights that make a video in seconds on a CPU."""
    built = tmp_path_factory.mktemp("announcement") / "pipeline"
    run([str(EXAMPLES / "build_tiny_pipeline.py"), str(built)], built.parent)
    sampling = {"height": 48, "width": 80, "num_frames": 5, "num_inference_steps": 2}
    (built / "fastvideo.json").write_text(json.dumps({"sampling": sampling}))
    return built


def run(words: list[str], cwd: Path) -> str:
    root = str(EXAMPLES.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sample(name: str, cwd: Path, *words: object) -> list[str]:
    return run([str(SAMPLES / f"{name}.py"), *map(str, words)], cwd).splitlines()


@pytest.mark.parametrize("name", ["generate", "my_pipeline"])
def test_a_video_from_a_prompt(name: str, folder: Path, tmp_path: Path) -> None:
    (path,) = sample(name, tmp_path, folder)
    assert path == "outputs/a-beautiful-sunset-over-mountains.mp4"
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)


def test_another_attention_backend(folder: Path, tmp_path: Path) -> None:
    path, *told = sample("attention_backend", tmp_path, folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    assert "SLIDING_TILE_ATTN" in "\n".join(told)


def test_other_parameters(folder: Path, tmp_path: Path) -> None:
    """The sample's own size, but its defaults leave one frame and its steps are cut, so that it takes seconds."""
    text = (SAMPLES / "sampling.py").read_text()
    assert "num_inference_steps=30" in text
    (tmp_path / "sampling.py").write_text(text.replace("num_inference_steps=30", "num_inference_steps=2, num_frames=1"))
    (path,) = run([str(tmp_path / "sampling.py"), str(folder)], tmp_path).splitlines()
    assert decode(tmp_path / path)[0].shape == (1, 576, 1024, 3)


def test_supported_backends(tmp_path: Path) -> None:
    shape, *told = sample("supported_backends", tmp_path)
    assert shape == "torch.Size([1, 100, 1024])" and "NewDiT on 2 ranks" in "\n".join(told)


def test_a_model_of_ones_own(folder: Path, tmp_path: Path, load_example: LoadExample) -> None:
    (path,) = sample("register", tmp_path, folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    model = load_example("announcement.my_custom_model").MyModelClass()
    torch.nn.init.normal_(model.to_out.bias)
    save_model(model, str(tmp_path / "weights.safetensors"))
    path, *told = sample("model_class", tmp_path, tmp_path / "weights.safetensors", folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    assert "MyModelClass on 2 ranks" in "\n".join(told)
