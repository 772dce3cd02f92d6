"""The files of LoRA: each format, with each way to give its factor, is read as the same change of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastvideo.frontends import loading
from fastvideo.frontends.families.hunyuan import HUNYUAN_VIDEO
from fastvideo.frontends.lora import read_lora

from .tiny_families import TINY

Components = dict[str, loading.Component]


def change_of(opened: loading.PipelineFolder, file: Path, model: nn.Module, **options: Any) -> dict[str, Tensor]:
    """What a file adds to the parameters that it changes."""
    shapes = {"transformer": {name: param.shape for name, param in model.named_parameters()}}
    read = read_lora(file, opened, shapes, **options).deltas["transformer"]
    zeros = {name: torch.zeros(shapes["transformer"][name]) for name in read}
    return {name: sum_of(zeros[name], deltas) for name, deltas in read.items()}


def sum_of(total: Tensor, deltas: list[Any]) -> Tensor:
    for delta in deltas:
        total = delta.added_to(total, 1.0)
    return total


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-5, atol=1e-5)


ORIGINAL = {"self_attn.q": "attn1.to_q", "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj"}


@pytest.fixture
def pairs(components: Components) -> dict[str, tuple[Tensor, Tensor]]:
    """Halves of a LoRA, by the name of the layer."""
    layers = dict(components["transformer"].value.named_modules())
    names = [f"blocks.{block}.{path}" for block in (0, 1) for path in ORIGINAL.values()]
    sizes = {name: layers[name].weight.shape for name in names}
    return {name: (torch.randn(3, inside), torch.randn(out, 3)) for name, (out, inside) in sizes.items()}


def in_format(pairs: dict[str, tuple[Tensor, Tensor]], style: str) -> dict[str, Tensor]:
    original = {ours: theirs for theirs, ours in ORIGINAL.items()}
    result: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        block, path = name.split(".", 2)[1:]
        names = {
            "diffusers": f"transformer.{name}.lora_A.weight transformer.{name}.lora_B.weight",
            "peft": f"base_model.model.{name}.lora_A.default.weight base_model.model.{name}.lora_B.default.weight",
            "older diffusers": f"transformer.{name}.lora.down.weight transformer.{name}.lora.up.weight",
            "original": f"diffusion_model.blocks.{block}.{original[path]}.lora_down.weight "
            f"diffusion_model.blocks.{block}.{original[path]}.lora_up.weight",
        }[style].split()
        result |= dict(zip(names, (down, up), strict=True))
    return result


@pytest.mark.parametrize("style", ["diffusers", "peft", "older diffusers", "original"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_formats(
    opened: loading.PipelineFolder,
    components: Components,
    pairs: dict[str, tuple[Tensor, Tensor]],
    style: str,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    tensors = {key: value.to(dtype) for key, value in in_format(pairs, style).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = change_of(opened, tmp_path / "x.safetensors", components["transformer"].value)
    exact = {f"{name}.weight": up.to(dtype).float() @ down.to(dtype).float() for name, (down, up) in pairs.items()}
    assert_same(found, exact)


def test_alpha_of_original_format(opened: loading.PipelineFolder, components: Components, tmp_path: Path) -> None:
    """Two blocks of the layout that musubi-tuner writes; the converter wants every layer of a block."""
    paths = {f"self_attn_{x}": f"attn1.to_{x}" for x in "qkv"} | {f"cross_attn_{x}": f"attn2.to_{x}" for x in "qkv"}
    paths |= {"self_attn_o": "attn1.to_out.0", "cross_attn_o": "attn2.to_out.0"}
    paths |= {"ffn_0": "ffn.net.0.proj", "ffn_2": "ffn.net.2"}
    model = components["transformer"].value
    tensors, wanted = {}, {}
    for block in range(len(model.blocks)):
        for theirs, ours in paths.items():
            out, inside = model.get_submodule(f"blocks.{block}.{ours}").weight.shape
            down, up = torch.randn(4, inside), torch.randn(out, 4)
            key = f"lora_unet_blocks_{block}_{theirs}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(2.0)}
            wanted[f"blocks.{block}.{ours}.weight"] = 0.5 * up @ down
    save_file(tensors, tmp_path / "x.safetensors")
    assert_same(change_of(opened, tmp_path / "x.safetensors", model), wanted)


def test_fused_layers_of_original_format(opened: loading.PipelineFolder, tmp_path: Path) -> None:
    """One adapter of a fused projection is three of ours, which share one half."""
    model = TINY["hunyuan-video"]().transformer
    dim = model.transformer_blocks[0].attn.to_q.in_features
    down, up = torch.randn(2, dim), torch.randn(3 * dim, 2)
    key = "double_blocks.0.img_attn_qkv"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "x.safetensors")
    found = change_of(replace(opened, family=HUNYUAN_VIDEO), tmp_path / "x.safetensors", model)
    names = [f"transformer_blocks.0.attn.to_{x}.weight" for x in "qkv"]
    assert_same(found, {name: part @ down for name, part in zip(names, up.chunk(3), strict=True)})


@pytest.mark.parametrize("place", ["header", "adapter_config.json"])
@pytest.mark.parametrize(("rslora", "root"), [(False, 1.0), (True, 3.0**0.5)])
def test_settings_of_peft(
    opened: loading.PipelineFolder,
    components: Components,
    pairs: dict[str, tuple[Tensor, Tensor]],
    place: str,
    rslora: bool,
    root: float,
    tmp_path: Path,
) -> None:
    settings = {"r": 3, "lora_alpha": 6, "alpha_pattern": {"blocks.1.attn1.to_q": 12}, "use_rslora": rslora}
    file = tmp_path / "adapter_model.safetensors"
    if place == "header":
        header = {f"transformer.{key}": value for key, value in settings.items()}
        text = {"lora_adapter_metadata": json.dumps(header)}
        save_file(in_format(pairs, "diffusers"), file, metadata=text)
    else:
        save_file(in_format(pairs, "peft"), file)
        (tmp_path / place).write_text(json.dumps(settings))
    factor = {name: (4.0 if name == "blocks.1.attn1.to_q" else 2.0) * root for name in pairs}
    wanted = {f"{name}.weight": factor[name] * up @ down for name, (down, up) in pairs.items()}
    assert_same(change_of(opened, tmp_path, components["transformer"].value), wanted)
