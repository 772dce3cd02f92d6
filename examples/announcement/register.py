"""A model of one's own, registered by name; the other parts are those of a pipeline.

python examples/announcement/register.py Wan-AI/Wan2.1-T2V-1.3B-Diffusers
"""

import sys

from my_custom_model import MyCustomModel

from fastvideo import VideoGenerator, register_model

# Register model without execution details
register_model("MyNewModel", MyCustomModel, pipeline=sys.argv[1])

# Execution strategy is applied separately
generator = VideoGenerator.from_pretrained("MyNewModel", num_gpus=2)
print(generator.generate_video("futuristic cityscape").path)
