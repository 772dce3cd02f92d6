"""A pipeline of one's own stages among the standard ones.

python examples/announcement/my_pipeline.py Wan-AI/Wan2.1-T2V-1.3B-Diffusers
"""

import sys

from fastvideo import VideoGenerator
from fastvideo.pipeline import ComposedPipelineBase
from fastvideo.stages import Stage, StandardStages


class MyCustomStage(Stage):
    """Mirrors the frames."""

    requires = ("frames",)
    provides = ("frames",)

    def run(self, state):
        state.frames = state.frames[:, :, ::-1].copy()


class MyPipeline(ComposedPipelineBase):
    """Custom pipeline implementation."""

    def create_pipeline_stages(self, args):
        # Reuse standard stages
        StandardStages.add_text_encoding_stage(self)
        StandardStages.add_transformer_stage(self)
        StandardStages.add_vae_stage(self)

        # Add only custom stages as needed
        self.add_stage("my_custom_stage", MyCustomStage())


generator = VideoGenerator.from_pretrained(sys.argv[1], num_gpus=2, pipeline_class=MyPipeline)
video = generator.generate_video("a beautiful sunset over mountains")
print(video.path)
