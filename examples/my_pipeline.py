"""A pipeline of your own: the standard stages, and one that fades the video in.

python examples/build_tiny_pipeline.py outputs/tiny-wan
python examples/my_pipeline.py outputs/tiny-wan
"""

from __future__ import annotations

import sys

import numpy as np

from fastvideo import VideoGenerator
from fastvideo.pipeline import ComposedPipelineBase, StageContext
from fastvideo.stages import GenerationState, Stage, StandardStages


class FadeIn(Stage):
    """From black to full brightness, over the whole video."""

    requires = ("frames",)
    provides = ("frames",)

    def run(self, state: GenerationState) -> None:
        frames = state.frames
        assert frames is not None
        brightness = np.linspace(0, 1, len(frames)).reshape(-1, 1, 1, 1)
        state.frames = (frames * brightness).astype(np.uint8)


class MyPipeline(ComposedPipelineBase):
    """What a standard stage builds on comes with it: here validation, timesteps, latents and further inputs."""

    def create_pipeline_stages(self, args: StageContext) -> None:
        StandardStages.add_text_encoding_stage(self)
        StandardStages.add_transformer_stage(self)
        StandardStages.add_vae_stage(self)
        self.add_stage("fade_in", FadeIn())


def main(model: str) -> None:
    with VideoGenerator.from_pretrained(model, pipeline_class=MyPipeline, device="cpu") as generator:
        video = generator.generate_video("a lake at dawn", height=48, width=80, num_frames=9, num_inference_steps=2)
    print(video.path, *video.seconds)


if __name__ == "__main__":
    main(sys.argv[1])
