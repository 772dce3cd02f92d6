"""Every sample of examples/announcement, as the user runs it: a script of its own, with small local weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import torch
from safetensors.torch import save_model

from examples.build_tiny_pipeline import build

from ..pipeline.test_video import decode
from ..script_server import ScriptServer
from .conftest import EXAMPLES, LoadExample

SAMPLES = EXAMPLES / "announcement"


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptServer]:
    with ScriptServer("fastvideo.video_generator") as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, with settings shipped beside its weights that make a video in seconds on a CPU."""
    built = build(tmp_path_factory.mktemp("announcement") / "pipeline")
    sampling = {"height": 48, "width": 80, "num_frames": 5, "num_inference_steps": 2}
    (built / "fastvideo.json").write_text(json.dumps({"sampling": sampling}))
    return built


class Sample(Protocol):
    def __call__(self, name: str, *words: object) -> list[str]: ...


@pytest.fixture
def sample(server: ScriptServer, tmp_path: Path) -> Sample:
    """The lines that a sample prints in a folder of its own."""
    return lambda name, *words: server.run([SAMPLES / f"{name}.py", *words], tmp_path).splitlines()


@pytest.mark.parametrize("name", ["generate", "my_pipeline"])
def test_a_video_from_a_prompt(name: str, sample: Sample, folder: Path, tmp_path: Path) -> None:
    (path,) = sample(name, folder)
    assert path == "outputs/a-beautiful-sunset-over-mountains.mp4"
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)


def test_another_attention_backend(sample: Sample, folder: Path, tmp_path: Path) -> None:
    path, *told = sample("attention_backend", folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    assert "SLIDING_TILE_ATTN" in "\n".join(told)


def test_other_parameters(server: ScriptServer, folder: Path, tmp_path: Path) -> None:
    """The sample's own size, but its defaults leave one frame and its steps are cut, so that it takes seconds."""
    text = (SAMPLES / "sampling.py").read_text()
    assert "num_inference_steps=30" in text
    (tmp_path / "sampling.py").write_text(text.replace("num_inference_steps=30", "num_inference_steps=2, num_frames=1"))
    (path,) = server.run([tmp_path / "sampling.py", folder], tmp_path).splitlines()
    assert decode(tmp_path / path)[0].shape == (1, 576, 1024, 3)


def test_supported_backends(sample: Sample) -> None:
    shape, *told = sample("supported_backends")
    assert shape == "torch.Size([1, 100, 1024])" and "NewDiT on 2 ranks" in "\n".join(told)


def test_a_model_of_ones_own(sample: Sample, folder: Path, tmp_path: Path, load_example: LoadExample) -> None:
    (path,) = sample("register", folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    model = load_example("announcement.my_custom_model").MyModelClass()
    torch.nn.init.normal_(model.to_out.bias)
    save_model(model, str(tmp_path / "weights.safetensors"))
    path, *told = sample("model_class", tmp_path / "weights.safetensors", folder)
    assert decode(tmp_path / path)[0].shape == (5, 48, 80, 3)
    assert "MyModelClass on 2 ranks" in "\n".join(told)
