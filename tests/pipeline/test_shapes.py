"""The trained model that comes with the package: it draws what captions say, and Diffusers loads it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import WanPipeline

from examples.train_shapes.detect import score
from examples.train_shapes.scenes import held_out_set
from fastvideo import VideoGenerator
from fastvideo.frontends import hub, loading
from fastvideo_ir.errors import UnknownNameError

from .test_parity import distance

CAPTIONS = 4
"""Of scenes with two and three objects, each with a combination that training never saw."""


@pytest.fixture(scope="module")
def generator() -> Iterator[VideoGenerator]:
    with VideoGenerator.from_pretrained("fastvideo/shapes", num_gpus=1, device="cpu") as generator:
        yield generator


def test_captions_are_drawn(generator: VideoGenerator) -> None:
    asked = held_out_set(CAPTIONS)
    scores = []
    for number, (caption, scene) in enumerate(asked):
        video = generator.generate_video(
            caption, seed=number, num_inference_steps=6, save_video=False, return_frames=True, progress=False
        )
        assert video.frames is not None
        scores.append(score(video.frames, scene))
        other = asked[number - 1][1]
        assert not score(video.frames, other).looks, "a caption changes nothing"
    assert sum(found.looks for found in scores) >= CAPTIONS - 1, scores
    assert sum(found.motion for found in scores) >= CAPTIONS - 1, scores


def test_diffusers_makes_the_same_latents_from_the_same_folder(generator: VideoGenerator) -> None:
    opened = loading.open_pipeline("fastvideo/shapes")  # WanPipeline.from_pretrained does the same with accelerate
    pipeline = WanPipeline(**{role: opened.load(role, torch.float32, None).value for role in opened.family.roles})
    pipeline.set_progress_bar_config(disable=True)
    caption = held_out_set(1)[0][0]
    wanted = pipeline(
        caption,
        negative_prompt="",
        height=128,
        width=128,
        num_frames=17,
        num_inference_steps=3,
        guidance_scale=4.0,
        max_sequence_length=64,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).frames
    video = generator.generate_video(
        caption, seed=5, num_inference_steps=3, save_video=False, return_latents=True, progress=False
    )
    assert video.latents is not None
    assert distance(video.latents, wanted) < 1e-4


def test_a_typo_does_not_go_to_the_hub() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown built-in pipeline 'fastvideo/shape'.*did you mean"):
        VideoGenerator.from_pretrained("fastvideo/shape")


def test_no_file_is_large() -> None:
    sizes = [file.stat().st_size for file in (hub.BUILT_IN / "shapes").rglob("*.safetensors")]
    assert max(sizes) <= 15e6 and sum(sizes) <= 40e6
