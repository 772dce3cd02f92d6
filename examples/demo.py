"""An mp4 from a prompt, on two ranks, from nothing: the pipeline is built on the spot with random weights.

    python examples/demo.py
    python examples/demo.py --num-gpus 3 --prompt "a cat on a red chair"

Ranks are GPUs where there are any, and processes on the CPU otherwise. The video is noise, as the weights are;
that it is the right noise is what the tests of the pipeline are for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import torch
from build_tiny_pipeline import build

from fastvideo import SamplingParam, VideoGenerator

OUTPUTS = Path("outputs")


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
    parser.add_argument("--prompt", default="a person walking in a forest")
    parser.add_argument("--num-gpus", type=int, default=min(2, torch.cuda.device_count() or 2))
    arguments = parser.parse_args()

    folder = build(OUTPUTS / "tiny-wan")
    params = SamplingParam(folder, height=128, width=192, num_frames=17, num_inference_steps=4, seed=1024)
    with VideoGenerator.from_pretrained(folder, num_gpus=arguments.num_gpus) as generator:
        video = generator.generate_video(arguments.prompt, sampling_param=params, output_path=OUTPUTS)
    if video.path is None:
        raise SystemExit(f"error: {video.save_error}")
    print(video.path)
    print(check_video(video.path, num_frames=17, width=192, height=128, fps=16))
    steps = ", ".join(f"{seconds:.2f}" for seconds in video.step_seconds)
    print(f"{arguments.num_gpus} ranks, seed {video.seed}, seconds per step: {steps} (the first one compiles)")


if __name__ == "__main__":
    sys.exit(main())
