"""A pipeline folder is checked before its weights are read; what is wrong is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

import fastvideo_ir as ir
from fastvideo.frontends import loading

WEIGHTS = "diffusion_pytorch_model.safetensors"


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


# What is done to the folder, then what the error must say; all is told without reading weights.
DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: (p / "model_index.json").unlink(), "is not a pipeline: it has no model_index.json"),
    (lambda p: (p / "model_index.json").write_text("{"), "model_index.json' cannot be read as JSON"),
    (lambda p: (p / "model_index.json").write_text("[1]"), "model_index.json' holds no JSON object"),
    (
        lambda p: edit(p / "model_index.json", _class_name="FluxPipeline"),
        "'FluxPipeline' pipeline, for which there is no",
    ),
    (lambda p: edit(p / "model_index.json", boundary_ratio=0.9), "boundary_ratio=None (here 0.9)"),
    (
        lambda p: edit(p / "model_index.json", expand_timesteps=True, boundary_ratio=0.9),
        "wan2.2-ti2v-5b needs boundary_ratio=None (here 0.9)",
    ),
    (
        lambda p: edit(p / "model_index.json", _class_name="WanVideoToVideoPipeline"),
        "pass it to fastvideo.compile(pipeline, num_gpus=…); known pipeline classes: CogVideoX",
    ),
    (lambda p: edit(p / "model_index.json", vae=[None, None]), "has no 'vae'"),
    (lambda p: edit(p / "model_index.json", vae=["evil", "Vae"]), "comes from 'evil', and code that comes with"),
    (lambda p: edit(p / "model_index.json", vae=["diffusers", "Vae"]), "diffusers.Vae, which the installed diffusers"),
    (lambda p: edit(p / "model_index.json", vae=["diffusers", "schedulers"]), "diffusers.schedulers, which the"),
    (lambda p: shutil.rmtree(p / "vae"), "has no folder 'vae'"),
    (lambda p: (p / "transformer/config.json").unlink(), "transformer/config.json' is missing"),
    (lambda p: (p / "scheduler/scheduler_config.json").write_text("x"), "scheduler_config.json' cannot be read"),
    (lambda p: (p / "tokenizer/tokenizer.json").unlink(), "tokenizer' has no vocabulary: none of spiece.model"),
    (lambda p: (p / "transformer" / WEIGHTS).unlink(), f"transformer/{WEIGHTS}' is missing"),
    (lambda p: (p / "text_encoder/model.safetensors").unlink(), "text_encoder/model.safetensors' is missing"),
    (lambda p: truncate(p / "transformer" / WEIGHTS), f"transformer/{WEIGHTS}' is truncated or damaged"),
    (lambda p: truncate(p / "text_encoder/model.safetensors"), "text_encoder/model.safetensors' is truncated"),
    (lambda p: (p / "vae" / WEIGHTS).write_bytes(b"\xff" * 64), f"vae/{WEIGHTS}' is truncated or damaged"),
    (lambda p: (p / "vae" / WEIGHTS).write_bytes(b""), f"vae/{WEIGHTS}' is truncated or damaged"),
    (
        lambda p: (p / "vae" / WEIGHTS).rename(p / "vae/diffusion_pytorch_model.bin"),
        "only as pickles (diffusion_pytorch_model.bin), which are never loaded",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[case[1][-40:] for case in DAMAGES])
def test_damaged_folder_is_refused_before_weights_are_read(
    copy: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(copy)
    with pytest.raises(ir.errors.PipelineLoadError) as caught:
        loading.open_pipeline(copy)
    assert message in str(caught.value) and caught.value.hint
    assert "\n" not in str(caught.value)


MISFITS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("transformer", lambda p: edit(p / "transformer/config.json", num_layers=3), "the weights lack blocks.2."),
    ("transformer", lambda p: edit(p / "transformer/config.json", num_layers=1), "is no parameter of WanTransformer"),
    ("transformer", lambda p: edit(p / "transformer/config.json", ffn_dim=128), "(256,), the config says (128,)"),
    (
        "transformer",
        lambda p: edit(p / "transformer/config.json", ffn_dim="x"),
        "no WanTransformer3DModel can be built",
    ),
    ("text_encoder", lambda p: edit(p / "text_encoder/config.json", num_layers=3), "the weights lack encoder.block.2."),
    ("text_encoder", lambda p: edit(p / "text_encoder/config.json", d_ff=64), "the config says another shape for"),
    ("tokenizer", lambda p: (p / "tokenizer/tokenizer.json").write_text('{"a": 1}'), "holds no T5Tokenizer that can"),
]


@pytest.mark.parametrize(("role", "damage", "message"), MISFITS, ids=[case[2] for case in MISFITS])
def test_weights_that_do_not_fit_are_refused(
    copy: Path, role: str, damage: Callable[[Path], Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    opened = loading.open_pipeline(copy)
    with pytest.raises(ir.errors.PipelineLoadError) as caught:
        opened.load(role, torch.float32)
    assert message in caught.value.message and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_paths_that_are_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ir.errors.PipelineLoadError, match="is a file, not a pipeline folder"):
        loading.open_pipeline(folder / "model_index.json")
    with pytest.raises(ir.errors.PipelineLoadError, match="is neither a folder on this machine nor a hub id"):
        loading.open_pipeline(tmp_path / "nothing")
    with pytest.raises(ir.errors.PipelineLoadError, match="'owner/name' is not a folder on this machine and could not"):
        loading.open_pipeline("owner/name")


def test_hub_id_is_taken_from_the_cache_of_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--owner--name"
    shutil.copytree(folder, cached / "snapshots/0123")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert loading.read_family("owner/name").name == "wan2.1-t2v"
    assert loading.open_pipeline("owner/name").path == cached / "snapshots/0123"


def test_sharded_weights(copy: Path, components: dict[str, loading.Component]) -> None:
    whole = load_file(copy / "transformer" / WEIGHTS)
    names = sorted(whole)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: whole[name].clone() for name in part}, copy / "transformer" / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (copy / "transformer" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (copy / "transformer" / WEIGHTS).unlink()

    loaded = loading.open_pipeline(copy).load("transformer", torch.float32).value.state_dict()
    wanted = components["transformer"].value.state_dict()
    assert loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name]) for name in wanted)

    (copy / "transformer/b.safetensors").unlink()
    with pytest.raises(ir.errors.PipelineLoadError, match=r"lacks the weights b\.safetensors"):
        loading.open_pipeline(copy)


@pytest.mark.parametrize("role", ["transformer", "vae"])
def test_weights_of_the_asked_dtype_stay_memory_maps(copy: Path, role: str) -> None:
    opened = loading.open_pipeline(copy)
    model = opened.load(role, torch.float32).value
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if str(copy / role) in line]
    spans = [(int(low, 16), int(high, 16)) for low, high in ranges]
    for parameter in model.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in spans)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_cast_weights_keep_what_the_class_keeps_in_float32(opened: loading.PipelineFolder) -> None:
    model = opened.load("transformer", torch.bfloat16).value
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == torch.float32
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32


def test_flow_shift(opened: loading.PipelineFolder) -> None:
    assert opened.flow_shift_override(16) == {"flow_shift": 16.0}
    for bad in (0, -1.0, float("inf"), float("nan"), "3", True):
        with pytest.raises(ir.errors.InvalidArgumentError, match="flow_shift must be a positive number"):
            opened.flow_shift_override(bad)  # type: ignore[arg-type]


def test_config_has_the_defaults_of_its_class(copy: Path) -> None:
    file = copy / "vae/config.json"
    config = json.loads(file.read_text())
    del config["scale_factor_temporal"], config["scale_factor_spatial"]  # as in the published weights
    file.write_text(json.dumps(config))
    opened = loading.open_pipeline(copy)
    assert opened.config_value("vae.scale_factor_temporal") == 4
    with pytest.raises(ir.errors.PipelineLoadError, match="has no 'nothing' in its config"):
        opened.config_value("vae.nothing")
