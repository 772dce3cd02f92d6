"""A small pipeline on disk, and its parts loaded without the compiler."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastvideo.frontends import loading
from fastvideo.runtime.pipeline import ComposedPipeline

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    """A script of ``examples/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline; do not write into it."""
    built: Path = load_example("build_tiny_pipeline").build(tmp_path_factory.mktemp("tiny") / "pipeline")
    return built


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the small pipeline, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "pipeline"))


@pytest.fixture(scope="session")
def opened(folder: Path) -> loading.PipelineFolder:
    return loading.open_pipeline(folder)


@pytest.fixture(scope="session")
def components(opened: loading.PipelineFolder) -> dict[str, loading.Component]:
    """All components in float32; modules as they are, not compiled."""
    return {role: opened.load(role, torch.float32) for role in opened.family.roles}


@pytest.fixture(scope="session")
def pipeline(opened: loading.PipelineFolder, components: dict[str, loading.Component]) -> ComposedPipeline:
    return ComposedPipeline(opened, components, torch.device("cpu"))
