"""A model class and its weights.

python examples/announcement/model_class.py path/to/weights.safetensors Wan-AI/Wan2.1-T2V-1.3B-Diffusers
"""

import sys

from my_custom_model import MyModelClass

from fastvideo import VideoGenerator

# Custom model automatically gets all FastVideo optimizations
generator = VideoGenerator(
    model_class=MyModelClass,
    model_weights=sys.argv[1],
    pipeline=sys.argv[2],
    num_gpus=2,
)

# Generated with optimized attention and parallelism
video = generator.generate_video("futuristic cityscape")
print(video.path)
print(generator.explain())
