"""Stages check what they get and what they make, are timed, and report their progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.runtime.pipeline import ComposedPipeline, GenerationState, Stage
from fastvideo.runtime.pipeline.progress import RichProgress, progress_view

from .small_request import small_request

Components = dict[str, loading.Component]


class Recorder:
    """Keeps what a pipeline reports."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.steps: list[str] = []

    def stage(self, name: str, steps: int) -> None:
        self.stages.append((name, steps))

    def step(self, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append(self.stages[-1][0])


class OtherVAE:
    """What stages see of a VAE, with another ``decode``."""

    config = SimpleNamespace(scale_factor_temporal=4, scale_factor_spatial=8)

    def __init__(self, decode: Callable[..., Any]) -> None:
        self.decode = decode


def test_stages_are_timed_and_reported(pipeline: ComposedPipeline) -> None:
    seen = Recorder()
    state = pipeline.run(small_request(num_inference_steps=3), seen)
    names = ["validate", "encode_text", "encode_image", "timesteps", "latents", "inputs", "denoise", "decode"]
    assert list(state.seconds) == list(pipeline.stages) == names
    assert seen.stages == [(name, 3 if name == "denoise" else 1) for name in names]
    assert seen.steps == [*names[:6], "denoise", "denoise", "denoise", "decode"]
    assert len(state.step_seconds) == 3 and sum(state.step_seconds) <= state.seconds["denoise"]
    assert state.frames is not None and state.frames.shape == (9, 48, 80, 3) and state.frames.std() > 10


def test_a_stage_of_ones_own(opened: loading.PipelineFolder, components: Components) -> None:
    class Brightness(Stage):
        requires = ("frames",)

        def run(self, state: GenerationState) -> None:
            assert state.frames is not None
            state.frames = state.frames // 2

    class Zero(Stage):
        requires = ("latents",)

        def run(self, state: GenerationState) -> None:
            assert state.latents is not None
            state.latents = torch.zeros_like(state.latents)

    pipeline = ComposedPipeline(opened, components, torch.device("cpu"))
    pipeline.add_stage("darken", Brightness())
    pipeline.add_stage("zero", Zero(), before="decode")
    state = pipeline.run(small_request(num_inference_steps=1))
    assert state.frames is not None and state.frames.max() <= 127
    assert state.latents is not None and not state.latents.any()
    assert list(state.seconds)[-4:] == ["denoise", "zero", "decode", "darken"]
    with pytest.raises(ir.errors.UnknownNameError, match="did you mean 'decode'"):
        pipeline.add_stage("other", Zero(), before="decod")
    with pytest.raises(ir.errors.InvalidArgumentError, match="there is a stage 'darken' already"):
        pipeline.add_stage("darken", Brightness())


def test_stage_that_lacks_its_input(pipeline: ComposedPipeline) -> None:
    with pytest.raises(ir.errors.FastVideoError, match="stage DenoiseStage needs 'text'"):
        pipeline.stages["denoise"]("denoise", GenerationState(small_request()))


def test_stage_that_does_not_deliver(pipeline: ComposedPipeline) -> None:
    class Lazy(Stage):
        provides = ("frames",)

        def run(self, state: GenerationState) -> None:
            pass

    with pytest.raises(ir.errors.FastVideoError, match="stage Lazy did not set 'frames'"):
        stage = Lazy()
        stage.bind(pipeline.context)
        stage("lazy", GenerationState(small_request()))


def test_unknown_stage_in_a_family(opened: loading.PipelineFolder, components: Components) -> None:
    family = replace(opened.family, stages=("validate", "denois"))
    with pytest.raises(ir.errors.UnknownNameError, match="did you mean 'denoise'"):
        ComposedPipeline(replace(opened, family=family), components, torch.device("cpu"))


def test_numbers_that_are_none(opened: loading.PipelineFolder, components: Components) -> None:
    def broken(**inputs: Any) -> tuple[torch.Tensor]:
        return (torch.full_like(inputs["hidden_states"], float("nan")),)

    parts = {**components, "transformer": replace(components["transformer"], value=broken)}
    with pytest.raises(ir.errors.FastVideoError, match="the denoised latents hold NaN or infinity"):
        ComposedPipeline(opened, parts, torch.device("cpu")).run(small_request())

    def decode(latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (torch.full((1, 3, 9, 48, 80), float("inf")),)

    parts = {**components, "vae": replace(components["vae"], value=OtherVAE(decode))}
    with pytest.raises(ir.errors.FastVideoError, match="the decoded video holds NaN or infinity"):
        ComposedPipeline(opened, parts, torch.device("cpu")).run(small_request())


def test_decoder_that_makes_another_size(opened: loading.PipelineFolder, components: Components) -> None:
    def decode(latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (torch.zeros(1, 3, 8, 48, 80),)

    parts = {**components, "vae": replace(components["vae"], value=OtherVAE(decode))}
    with pytest.raises(
        ir.errors.FastVideoError, match=r"frames of shape \(8, 48, 80, 3\), asked were \(9, 48, 80, 3\)"
    ):
        ComposedPipeline(opened, parts, torch.device("cpu")).run(small_request())


def test_long_prompt_is_cut_with_a_warning(pipeline: ComposedPipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.run(small_request(prompt="a cat " * 20, max_sequence_length=16, num_inference_steps=1))
    assert "is cut to the 16 that the text encoder takes" in caplog.text


def test_no_bar_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_view(enabled=True) as view:
        view.stage("denoise", 2)
        view.step(0.1)
    assert isinstance(view, RichProgress)
    assert capfd.readouterr() == ("", "")


def test_bar_shows_stage_step_and_pace(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_view(enabled=True) as view:
        view.stage("denoise", 2)
        view.step(1.5)
    shown = capfd.readouterr()
    assert shown.out == ""
    for text in ("denoise", "1/2", "1.50 s/step"):
        assert text in shown.err
    with progress_view(enabled=False) as view:
        view.stage("denoise", 2)
        view.step(1.5)
    assert capfd.readouterr().err == ""
