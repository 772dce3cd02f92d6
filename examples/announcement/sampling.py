"""Other parameters than the model's own defaults.

python examples/announcement/sampling.py FastVideo/FastHunyuan-diffusers
"""

import sys

from fastvideo import SamplingParam, VideoGenerator

model = sys.argv[1]
# Override default configurations.
# Other arguments will be set to best defaults
generator = VideoGenerator.from_pretrained(
    model,
    num_gpus=2,
    flow_shift=16,  # override scheduler flow_shift
)

# Users can fine-tune and override parameters.
params = SamplingParam(
    model,  # Other arguments will be set to best defaults
    num_inference_steps=30,  # Higher quality
    guidance_scale=7.5,  # Stronger guidance
    width=1024,  # Higher resolution
    height=576,
)

# Performance optimizations still applied automatically
video = generator.generate_video("detailed landscape with mountains and a lake", sampling_param=params)
print(video.path)
