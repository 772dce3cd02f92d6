"""Pipelines and LoRA from a hub, by the hub's own client: what is fetched, what is kept, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.frontends.lora_files import read_lora_file

from .small_hub import Hub, serve

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub that the client knows; its cache is empty."""
    with serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(ir.errors.PipelineLoadError) as caught:
        call(*args, **options)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def test_only_what_is_needed_is_fetched_and_kept(hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "transformer/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (copy / "transformer/custom.py").write_text("raise SystemExit")
    (copy / "assets").mkdir()
    (copy / "assets/huge.safetensors").write_bytes(b"x")
    (copy / "original.safetensors").write_bytes(b"x")
    hub.add("owner/name", copy)
    hub.cut.add(f"transformer/{WEIGHTS}")

    folder = loading.open_pipeline("owner/name", weights=False).path
    configs = hub.downloaded()
    assert configs[0] == "model_index.json" and "transformer/config.json" in configs
    assert all(name.endswith(".json") for name in configs)
    hub.asked.clear()

    assert loading.open_pipeline("owner/name").path == folder
    fetched = set(hub.downloaded())
    assert not fetched & set(configs), "what is in the cache is not fetched again"
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == set(configs) | fetched
    assert {f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}", "text_encoder/model.safetensors"} <= fetched
    assert not any(name.endswith((".bin", ".py")) or "assets" in name or "original" in name for name in kept)
    assert (folder / "transformer" / WEIGHTS).read_bytes() == (copy / "transformer" / WEIGHTS).read_bytes()
    assert hub.downloaded().count(f"transformer/{WEIGHTS}") == 2, "a download that was cut off is tried again"
    hub.asked.clear()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loading.open_pipeline("owner/name").path == folder
    assert hub.asked == []


def test_what_cannot_be_had_is_told(hub: Hub, folder: Path, copy: Path) -> None:
    file = copy / "transformer" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-64])
    hub.add("owner/truncated", copy)
    hub.add("owner/gated", folder)
    hub.gated.add("owner/gated")
    hub.add("owner/incomplete", folder)
    del hub.repositories["owner/incomplete"][f"vae/{WEIGHTS}"]
    hub.add("owner/unknown", folder)
    hub.repositories["owner/unknown"]["model_index.json"] = b'{"_class_name": "FluxPipeline"}'
    hub.add("owner/remote", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["my_code", "MyTransformer"]
    hub.repositories["owner/remote"]["model_index.json"] = json.dumps(index).encode()
    hub.repositories["owner/empty"] = {"README.md": b""}
    expected = {
        "truncated": f"transformer/{WEIGHTS}' is truncated or damaged",
        "gated": "'owner/gated' is gated on the hub (accept its terms",
        "incomplete": f"vae/{WEIGHTS}' is missing",
        "unknown": "'owner/unknown' is a 'FluxPipeline' pipeline, for which there is no family",
        "remote": "comes from 'my_code', and code that comes with weights is not run",
        "empty": "is not a pipeline: it has no model_index.json",
        "nothing": "'owner/nothing' is neither a folder on this machine nor a repository on the hub",
    }
    for name, message in expected.items():
        assert message in refusal(loading.open_pipeline, f"owner/{name}"), name
    assert not any("unknown" in path and "/resolve/" in path and "model_index" not in path for _, path, _ in hub.asked)


def test_lora(hub: Hub, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("pytorch_lora_weights", "large", "small"):
        save_file({"transformer.x.lora_A.weight": torch.ones(1, 2)}, files / f"{name}.safetensors")
    (files / "pytorch_lora_weights.bin").write_bytes(b"pickle")
    hub.add("owner/usual", files)
    for repo, names in (("several", ["large", "small"]), ("single", ["small"]), ("pickle", [])):
        hub.repositories[f"owner/{repo}"] = {
            f"{n}.safetensors": (files / f"{n}.safetensors").read_bytes() for n in names
        }
    hub.repositories["owner/pickle"]["x.bin"] = b"pickle"
    usual, single = (read_lora_file(f"owner/{name}").path.name for name in ("usual", "single"))
    named = read_lora_file("owner/several", "large.safetensors").path.name
    downloaded = ["pytorch_lora_weights.safetensors", "small.safetensors", "large.safetensors"]
    assert [usual, single, named] == hub.downloaded() == downloaded
    for name, options, message in (
        ("several", {}, "has 2 safetensors files: large.safetensors, small.safetensors (name one with weight_name=)"),
        ("several", {"weight_name": "medium.safetensors"}, "'owner/several' has no file 'medium.safetensors'"),
        ("pickle", {}, "'owner/pickle' has 0 safetensors files (pickles are never loaded)"),
        ("nothing", {}, "'owner/nothing' is neither a folder on this machine nor a repository on the hub"),
    ):
        assert message in refusal(read_lora_file, f"owner/{name}", **options)
    assert hub.downloaded() == downloaded
