"""Same weights, same seed: our latents are those of Diffusers' own pipeline."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from fastvideo.frontends import loading
from fastvideo.runtime.pipeline import ComposedPipeline

from .small_request import SMALL, small_request

Components = dict[str, loading.Component]


def reference_latents(components: Components, **changes: Any) -> torch.Tensor:
    arguments = {**SMALL, **changes}
    pipeline = WanPipeline(**{role: component.value for role, component in components.items()})
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(arguments.pop("seed"))
    latents: torch.Tensor = pipeline(**arguments, generator=generator, output_type="latent").frames
    return latents


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def latents_of(pipeline: ComposedPipeline, **changes: Any) -> torch.Tensor:
    latents = pipeline.run(small_request(**changes)).latents
    assert latents is not None
    return latents


CASES: list[dict[str, Any]] = [
    {},
    {"guidance_scale": 1.0},
    {"negative_prompt": ""},
    {"prompt": "  rain &amp; wind\n on a  beach \u2014 caf\u00c3\u00a9", "height": 32, "width": 48, "num_frames": 1},
    {"num_inference_steps": 1},
]


@pytest.mark.parametrize("changes", CASES, ids=repr)
def test_latents_equal_those_of_diffusers(
    pipeline: ComposedPipeline, components: Components, changes: dict[str, Any]
) -> None:
    assert distance(latents_of(pipeline, **changes), reference_latents(components, **changes)) < 1e-4


def test_latents_depend_on_all_that_they_should(pipeline: ComposedPipeline) -> None:
    base = latents_of(pipeline)
    for changes in (
        {"prompt": "a cat"},
        {"negative_prompt": ""},
        {"guidance_scale": 3.0},
        {"seed": 8},
        {"num_inference_steps": 5},
    ):
        assert distance(latents_of(pipeline, **changes), base) > 1e-3, changes


def test_another_scheduler_and_a_flow_shift(copy: Path, components: Components) -> None:
    shutil.rmtree(copy / "scheduler")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(copy / "scheduler")
    index = (copy / "model_index.json").read_text()
    (copy / "model_index.json").write_text(index.replace("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"))
    opened = loading.open_pipeline(copy)
    scheduler = opened.load("scheduler", torch.float32, opened.flow_shift_override(7.0))
    assert scheduler.value.config.shift == 7.0
    with_euler = {**components, "scheduler": scheduler}
    latents = latents_of(ComposedPipeline(opened, with_euler, torch.device("cpu")))
    assert distance(latents, reference_latents(with_euler)) < 1e-4
    assert distance(latents, reference_latents(components)) > 1e-3


def test_bfloat16_gets_the_same_inputs_as_in_diffusers(opened: loading.PipelineFolder, components: Components) -> None:
    """Timesteps above 256 are not exact in bfloat16, so that they must not be cast on the way."""
    in_bf16 = {**components, "transformer": opened.load("transformer", torch.bfloat16)}
    calls: list[dict[str, Any]] = []

    def record(**inputs: Any) -> Any:
        calls.append(inputs)
        return in_bf16["transformer"].value(**inputs)

    recorded = {**in_bf16, "transformer": replace(in_bf16["transformer"], value=record)}
    latents = latents_of(ComposedPipeline(opened, recorded, torch.device("cpu")))
    assert latents.dtype == torch.float32
    scheduler = components["scheduler"].value
    assert [call["timestep"].tolist() for call in calls] == [[t, t] for t in scheduler.timesteps.tolist()]
    assert {call["timestep"].dtype for call in calls} == {scheduler.timesteps.dtype}
    assert {call["hidden_states"].dtype for call in calls} == {torch.bfloat16}
    # One tensor for all steps: what depends on it alone may be computed once.
    assert len({id(call["encoder_hidden_states"]) for call in calls}) == 1
    assert distance(latents, reference_latents(in_bf16)) < 2e-2


def test_padding_tokens_are_zero(pipeline: ComposedPipeline, components: Components) -> None:
    state = pipeline.run(small_request(prompt="a cat", num_inference_steps=1))
    assert state.text is not None
    text = state.text["encoder_hidden_states"]
    assert text.shape == (2, 512, 64)
    used = len(components["tokenizer"].value("a cat").input_ids)
    assert text[0, :used].abs().sum(-1).gt(0).all() and text[0, used:].abs().max() == 0
