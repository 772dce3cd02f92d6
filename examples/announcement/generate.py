"""A video from a prompt; the number of GPUs is the only setting.

python examples/announcement/generate.py FastVideo/FastHunyuan
"""

import sys

from fastvideo import VideoGenerator

generator = VideoGenerator.from_pretrained(sys.argv[1], num_gpus=2)
# No torchrun or configuration of parallelism settings needed
video = generator.generate_video("a beautiful sunset over mountains")
print(video.path)
