"""Another attention backend, by an environment variable: TORCH_SDPA, FLASH_ATTN, SLIDING_TILE_ATTN or SAGE_ATTN.

python examples/announcement/attention_backend.py FastVideo/FastHunyuan
"""

import os
import sys

from fastvideo import VideoGenerator

os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "SLIDING_TILE_ATTN"
# Tensor and sequence parallelism are automatically applied with num_gpus
generator = VideoGenerator.from_pretrained(sys.argv[1], num_gpus=2)

# No torchrun or configuration of parallelism settings needed
video = generator.generate_video("a person walking in a forest")
print(video.path)
print(generator.explain())
