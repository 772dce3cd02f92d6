"""An mp4 from a prompt, on two ranks, from nothing: the small trained model comes with the package.

    python examples/demo.py
    python examples/demo.py --num-gpus 3 --prompt "a large yellow star grows, on a brown background, lit from the left"

Ranks are GPUs where there are any, and processes on the CPU otherwise. The model knows one to three circles, squares,
triangles, stars, rings and crosses in eight colours, and how they move: examples/train_shapes/README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import torch

from fastvideo import SamplingParam, VideoGenerator

MODEL = "fastvideo/shapes"
OUTPUTS = Path("outputs")
PROMPT = "a medium red star spins on the left and a medium blue ring rises on the right, on a gray background"


def check_video(path: Path, num_frames: int, width: int, height: int, fps: float) -> str:
    """Decode the whole file and compare it with what was asked; returns one line of figures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        found = (len(frames), stream.width, stream.height, float(stream.average_rate or 0))
    wanted = (num_frames, width, height, fps)
    if found != wanted:
        raise SystemExit(f"error: '{path}' holds (frames, width, height, fps) {found}, asked were {wanted}")
    return f"{len(frames)} frames, {width}x{height}, {fps:g} fps, {stream.codec_context.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate a small mp4 on several ranks, from nothing.")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--num-gpus", type=int, default=min(2, torch.cuda.device_count() or 2))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()

    params = SamplingParam(MODEL, num_inference_steps=arguments.steps, seed=1024)
    with VideoGenerator.from_pretrained(MODEL, num_gpus=arguments.num_gpus) as generator:
        video = generator.generate_video(arguments.prompt, sampling_param=params, output_path=OUTPUTS)
    if video.path is None:
        raise SystemExit(f"error: {video.save_error}")
    print(video.path)
    print(check_video(video.path, params.num_frames, params.width, params.height, params.fps))
    steps = ", ".join(f"{seconds:.2f}" for seconds in video.step_seconds)
    print(f"{arguments.num_gpus} ranks, seed {video.seed}, seconds per step: {steps} (the first one compiles)")


if __name__ == "__main__":
    sys.exit(main())
