"""A pipeline of one's own: standard stages, stages of one's own, one call per stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastvideo_ir as ir
from fastvideo import VideoGenerator
from fastvideo.frontends import loading
from fastvideo.pipeline import ComposedPipelineBase, StageContext
from fastvideo.stages import StandardStages

from .conftest import load_example
from .small_request import SMALL, small_request

Components = dict[str, loading.Component]


MY_PIPELINE = load_example("my_pipeline")


class EveryStage(ComposedPipelineBase):
    """All standard stages one by one."""

    def create_pipeline_stages(self, args: StageContext) -> None:
        StandardStages.add_validation_stage(self)
        StandardStages.add_text_encoding_stage(self)
        StandardStages.add_image_encoding_stage(self)
        StandardStages.add_timesteps_stage(self)
        StandardStages.add_latents_stage(self)
        StandardStages.add_inputs_stage(self)
        StandardStages.add_transformer_stage(self)
        StandardStages.add_vae_stage(self)


def test_a_pipeline_of_three_standard_stages_and_one_of_ones_own(folder: Path) -> None:
    request = {**SMALL, "num_inference_steps": 1, "save_video": False, "return_frames": True}
    with VideoGenerator.from_pretrained(folder, device="cpu", pipeline_class=MY_PIPELINE.MyPipeline) as generator:
        video = generator.generate_video(**request)
    with VideoGenerator.from_pretrained(folder, device="cpu") as generator:
        usual = generator.generate_video(**request)
    assert video.frames is not None and usual.frames is not None
    assert not video.frames[0].any() and (video.frames[-1] == usual.frames[-1]).all()
    assert (video.frames[4] == usual.frames[4] // 2).all()
    assert set(video.seconds) == {*usual.seconds, "fade_in"}


def test_what_is_no_pipeline_class(folder: Path) -> None:
    for wrong in ("MyPipeline", MY_PIPELINE.FadeIn, MY_PIPELINE.MyPipeline.create_pipeline_stages):
        with pytest.raises(ir.errors.InvalidArgumentError, match="must be a subclass of ComposedPipelineBase, got"):
            VideoGenerator.from_pretrained(folder, pipeline_class=wrong)


def test_all_standard_stages(opened: loading.PipelineFolder, components: Components) -> None:
    pipeline = EveryStage(opened, components, torch.device("cpu"))
    assert tuple(pipeline.stages) == opened.family.stages
    assert pipeline.run(small_request(num_inference_steps=1)).frames is not None


def test_a_stage_too_many(opened: loading.PipelineFolder, components: Components) -> None:
    class Twice(EveryStage):
        def create_pipeline_stages(self, args: StageContext) -> None:
            super().create_pipeline_stages(args)
            StandardStages.add_vae_stage(self)

    with pytest.raises(ir.errors.InvalidArgumentError, match="there is a stage 'decode' already"):
        Twice(opened, components, torch.device("cpu"))
