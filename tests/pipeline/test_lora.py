"""LoRA: merged by hand into Diffusers' own model, it gives the same latents; unloaded, nothing of it is left."""

from __future__ import annotations

import copy as copies
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.frontends import loading
from fastvideo.frontends.lora import read_lora
from fastvideo.loras import LoraStack

from .small_request import SMALL
from .test_parity import distance, reference_latents
from .tiny_families import build

if TYPE_CHECKING:
    from fastvideo import VideoGenerator

Components = dict[str, loading.Component]
Deltas = dict[str, Tensor]
"""What a LoRA adds at scale 1, by parameter."""


def make(folder: Path, **options: Any) -> VideoGenerator:
    from fastvideo.video_generator import VideoGenerator

    return VideoGenerator.from_pretrained(folder, device="cpu", **options)


def random_lora(model: nn.Module, seed: int, prefix: str = "transformer.") -> tuple[dict[str, Tensor], Deltas]:
    """A LoRA of every linear and convolution, of ranks 2 to 4, some with an alpha, some with a bias; and its deltas."""
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    deltas: Deltas = {}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv3d)]
    for index, (name, layer) in enumerate(layers):
        rank = 2 + index % 3
        out, *inside = layer.weight.shape
        down = 0.1 * torch.randn(rank, *inside, generator=draw)
        up = 0.1 * torch.randn(out, rank, *[1] * len(inside[1:]), generator=draw)
        factor = 1.0
        if index % 2:
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(5.0)
            factor = 5.0 / rank
        tensors |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
        deltas[f"{name}.weight"] = factor * torch.einsum("or,r...->o...", up.reshape(out, rank), down)
        if index % 3 == 0:
            bias = 0.1 * torch.randn(out, generator=draw)
            tensors[f"{prefix}{name}.diff_b"] = bias
            deltas[f"{name}.bias"] = bias
    return tensors, deltas


def merged(model: nn.Module, *parts: tuple[float, Deltas]) -> nn.Module:
    """A copy of ``model`` with scaled deltas added to its weights."""
    result = copies.deepcopy(model)
    params = dict(result.named_parameters())
    for scale, deltas in parts:
        for name, delta in deltas.items():
            params[name].data = params[name].data + scale * delta
    return result


def with_transformer(components: Components, model: nn.Module) -> Components:
    return {**components, "transformer": loading.Component(model, components["transformer"].config)}


def latents_of(generator: VideoGenerator, **changes: Any) -> Tensor:
    options = {**SMALL, "num_inference_steps": 2, "save_video": False, "return_latents": True, **changes}
    return generator.generate_video(**options).latents


RANKS: dict[str, dict[str, Any]] = {
    "1 rank": {},
    "2 processes": {"num_gpus": 2},
    "simulated tp": {"num_gpus": 2, "executor": "simulated", "parallel": Parallel(tp=2)},
}


@pytest.fixture(scope="module", params=list(RANKS))
def generator(folder: Path, request: pytest.FixtureRequest) -> Iterator[VideoGenerator]:
    with make(folder, **RANKS[request.param]) as generator:
        yield generator


@pytest.fixture(scope="module")
def loras(components: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Deltas]]:
    """Two files, and what they add."""
    folder = tmp_path_factory.mktemp("loras")
    made = {}
    for seed, name in enumerate(("cat", "rain")):
        tensors, deltas = random_lora(components["transformer"].value, seed)
        save_file(tensors, folder / f"{name}.safetensors")
        made[name] = folder / f"{name}.safetensors", deltas
    return made


@pytest.fixture(scope="module")
def expected(components: Components, loras: dict[str, tuple[Path, Deltas]]) -> Callable[..., Tensor]:
    """Diffusers' latents with LoRA of these scales merged by hand."""

    @functools.cache
    def expected(**scales: float) -> Tensor:
        changed = merged(components["transformer"].value, *((scale, loras[name][1]) for name, scale in scales.items()))
        return reference_latents(with_transformer(components, changed), num_inference_steps=2)

    return expected


def test_load_stack_scale_unload(
    generator: VideoGenerator,
    loras: dict[str, tuple[Path, Deltas]],
    expected: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = latents_of(generator)
    compiled, *_encoders = generator.compiled_models
    bits = {name: param.detach().clone() for name, param in compiled.named_parameters()}
    monkeypatch.setattr("fastvideo.compiler.capture", None)  # nothing is captured from here on
    assert generator.load_lora(loras["cat"][0]) == "cat"
    with_cat = latents_of(generator)
    assert distance(with_cat, expected(cat=1.0)) < 1e-5 < 1e-2 < distance(with_cat, before)
    generator.load_lora(loras["rain"][0], scale=-0.5)
    assert generator.loras == {"cat": 1.0, "rain": -0.5}
    assert distance(latents_of(generator), expected(cat=1.0, rain=-0.5)) < 1e-5
    generator.set_lora_scale("cat", 0.25)
    assert distance(latents_of(generator), expected(cat=0.25, rain=-0.5)) < 1e-5
    generator.set_lora_scale("rain", 0.0)
    assert distance(latents_of(generator), expected(cat=0.25)) < 1e-5
    generator.unload_lora("cat")
    assert generator.loras == {"rain": 0.0}
    assert torch.equal(latents_of(generator), before)
    generator.unload_lora("rain")
    assert generator.loras == {} and torch.equal(latents_of(generator), before)
    assert all(torch.equal(param, bits[name]) for name, param in compiled.named_parameters())
    assert len(compiled.programs) == 1


def stack_of(opened: loading.PipelineFolder, **models: nn.Module) -> LoraStack:
    """Compiled, as a generator has them."""
    compiled = {role: fastvideo.compile(model, device="cpu") for role, model in models.items()}
    return LoraStack(opened, compiled)


def test_sum_is_rounded_once(opened: loading.PipelineFolder, components: Components, tmp_path: Path) -> None:
    """In bfloat16, two adapters are added to the weight before anything is rounded."""
    model = opened.load("transformer", torch.bfloat16).value
    weight = model.blocks[0].attn1.to_q.weight
    base = weight.detach().float()
    tensors, deltas = {}, []
    for seed, name in enumerate(("a", "b")):
        tensors, delta = random_lora(model, seed)
        save_file(tensors, tmp_path / f"{name}.safetensors")
        deltas.append(delta["blocks.0.attn1.to_q.weight"])
    stack = stack_of(opened, transformer=model)
    for name in ("a", "b"):
        stack.add(name, read_lora(tmp_path / f"{name}.safetensors", opened, stack.shapes), 0.5)
    exact = base + 0.5 * deltas[0] + 0.5 * deltas[1]
    twice = ((base + 0.5 * deltas[0]).bfloat16().float() + 0.5 * deltas[1]).bfloat16()
    assert weight.dtype == torch.bfloat16 and not torch.equal(weight, twice)
    assert (weight.float() - exact).abs().max() <= (exact.bfloat16().float() - exact).abs().max() * 1.001
    stack.remove("a")
    stack.remove("b")
    assert torch.equal(weight.float(), base)


def test_quantized_weights_are_quantized_anew(
    opened: loading.PipelineFolder, components: Components, tmp_path: Path
) -> None:
    model = copies.deepcopy(components["transformer"].value)
    tensors, deltas = random_lora(model, 0)
    save_file(tensors, tmp_path / "x.safetensors")
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 3, 6, 10, generator=draw),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 12, 64, generator=draw),
    }
    for quantization in ("int8", "fp8"):
        options = {"device": "cpu", "quantization": quantization}
        with fastvideo.compile(merged(model, (1.0, deltas)), **options) as whole:
            wanted = whole(**inputs).sample
        with fastvideo.compile(model, **options) as compiled:
            before = compiled(**inputs).sample
            stack = LoraStack(opened, {"transformer": compiled})
            stack.add("x", read_lora(tmp_path / "x.safetensors", opened, stack.shapes), 1.0)
            assert distance(compiled(**inputs).sample, wanted) < 1e-3 < 1e-2 < distance(before, wanted)
            stack.remove("x")
            assert torch.equal(compiled(**inputs).sample, before)


def test_two_transformers(tmp_path: Path) -> None:
    pipe = build("wan2.2-t2v-a14b", tmp_path / "pipe")
    small = {**SMALL, "num_inference_steps": 3, "guidance_scale_2": 3.0}

    def expected(*models: nn.Module) -> Tensor:
        options = {name: value for name, value in small.items() if name != "seed"}
        pipe.transformer, pipe.transformer_2 = models
        draw = torch.Generator().manual_seed(small["seed"])
        return pipe(**options, generator=draw, output_type="latent").frames

    first, second = pipe.transformer, pipe.transformer_2
    one, of_one = random_lora(first, 1)
    two, of_two = random_lora(second, 2, "transformer_2.")
    save_file(one, tmp_path / "one.safetensors")
    save_file({**one, **two}, tmp_path / "both.safetensors")
    with make(tmp_path / "pipe", flow_shift=3.0) as generator:
        for file, component, models in (
            ("both", None, (merged(first, (1.0, of_one)), merged(second, (1.0, of_two)))),
            ("one", None, (merged(first, (1.0, of_one)), second)),
            ("one", "transformer_2", (first, merged(second, (1.0, of_one)))),
        ):
            name = generator.load_lora(tmp_path / f"{file}.safetensors", component=component)
            found = latents_of(generator, **small)
            assert distance(found, expected(*models)) < 1e-4 < 1e-3 < distance(found, expected(first, second))
            generator.unload_lora(name)
        with pytest.raises(ir.errors.InvalidArgumentError, match="has two values for transformer_2"):
            generator.load_lora(tmp_path / "both.safetensors", component="transformer_2")
        with pytest.raises(ir.errors.UnknownNameError, match="did you mean 'transformer_2'"):
            generator.load_lora(tmp_path / "one.safetensors", component="transformer_3")
