"""Look at what was learnt: strips of frames and the share of held-out captions that came out right.

    python -m examples.train_shapes.sample --pipeline outputs/shapes/pipeline --count 64

Uses diffusers' own pipeline; ``benchmarks/quality.py`` measures the same through fastvideo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline
from PIL import Image

from fastvideo.frontends import loading

from .detect import detect, score
from .parts import TEXT_LENGTH
from .render import NUM_FRAMES, SIZE
from .scenes import held_out_set

SHOWN = 5
"""Frames of a clip in a strip."""


def strip(clips: np.ndarray) -> Image.Image:
    """Clips ``(clips, frames, height, width, 3)`` below each other, a few frames of each side by side."""
    chosen = clips[:, np.linspace(0, clips.shape[1] - 1, SHOWN).round().astype(int)]
    rows = chosen.transpose(0, 2, 1, 3, 4).reshape(-1, SHOWN * clips.shape[3], 3)
    return Image.fromarray(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, default=Path("outputs/shapes/pipeline"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--length", type=int, default=TEXT_LENGTH)
    parser.add_argument("--strip", type=Path, default=Path("outputs/shapes/strip.png"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opened = loading.open_pipeline(options.pipeline)
    parts = {role: opened.load(role, torch.float32, None).value for role in opened.family.roles}
    pipeline = WanPipeline(**parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    asked = held_out_set(options.count)
    clips = pipeline(
        [caption for caption, _ in asked],
        negative_prompt="",
        height=SIZE,
        width=SIZE,
        num_frames=NUM_FRAMES,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        max_sequence_length=options.length,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).frames
    clips = (np.asarray(clips) * 255).round().astype(np.uint8)
    scores = [score(clip, scene) for clip, (_, scene) in zip(clips, asked, strict=True)]
    for (caption, _), result, clip in list(zip(asked, scores, clips, strict=True))[:8]:
        print(f"{'ok' if result.looks else '--'} {'ok' if result.motion else '--'} {caption}\n      {detect(clip)}")
    looks, motion = (sum(values) / len(scores) for values in zip(*((s.looks, s.motion) for s in scores), strict=True))
    print(f"{len(scores)} held-out captions, {options.steps} steps, guidance {options.guidance:g}:")
    print(f"colours and shapes {looks:.1%}, motions {motion:.1%}")
    options.strip.parent.mkdir(parents=True, exist_ok=True)
    strip(clips[:8]).save(options.strip)


if __name__ == "__main__":
    main()
