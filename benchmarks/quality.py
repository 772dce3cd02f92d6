"""What approximate settings cost in quality, and gain in time: captions of scenes against the renderer's truth.

    python -m benchmarks.quality --count 48 --output quality.json --strips quality.png

Every setting makes the same clips, from the same seeds, of captions that training never saw. A detector looks for the
colours, shapes and motions that the caption names; PSNR and SSIM compare the clip with that of the first setting. Time
is the median of a denoising step, guidance included, without the clip that compiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.train_shapes.detect import score
from examples.train_shapes.sample import strip
from examples.train_shapes.scenes import Scene, held_out_set
from fastvideo import SlidingTile, VideoGenerator

TILE, TILES, LAYERS, HEADS = (2, 4, 4), (3, 4, 4), 8, 6
"""Of sliding tile attention on the 5 × 16 × 16 tokens of ``fastvideo/shapes``, and of its denoiser."""
SHOWN = 3
"""Captions whose clips are drawn."""


@dataclass(frozen=True)
class Setting:
    """What a generator is made with, and how many steps it takes, as a share of all.

    Attributes:
        window: of sliding tile attention, in tiles; None for another attention.
        whole: share of the steps, the first ones, whose window is the whole grid; scenes are laid out in them.
    """

    options: dict[str, Any]
    steps: float = 1.0
    window: tuple[int, int, int] | None = None
    whole: float = 0.0

    def made_with(self, steps: int, folder: Path) -> dict[str, Any]:
        """Options for so many steps; a file of windows that they name is written to ``folder``."""
        if self.window is None:
            return self.options
        windows = [TILES if step < round(self.whole * steps) else self.window for step in range(steps)]
        entries = {
            f"{step}_{layer}_{head}": window
            for step, window in enumerate(windows)
            for layer in range(LAYERS)
            for head in range(HEADS)
        }
        file = folder / "windows.json"
        file.write_text(json.dumps(entries))
        return {"attention_backend": SlidingTile(tile=TILE, config=str(file)), **self.options}


def _tiles(time: int, height: int, width: int, whole: float = 0.0) -> Setting:
    return Setting({}, window=(time, height, width), whole=whole)


def _codes(format: str) -> Setting:
    """Every linear layer; of a small model ``quantization=`` takes none, since it would gain no time."""
    return Setting({"passes": f"default,quantize-linear{{format={format},least_gain=-1}}"})


SETTINGS = {
    "exact": Setting({}),
    "half as many steps": Setting({}, 0.5),
    "a third as many steps": Setting({}, 1 / 3),
    "sliding tile 3×3×3 (56 %)": _tiles(3, 3, 3),
    "sliding tile 3×2×2 (25 %)": _tiles(3, 2, 2),
    "sliding tile 1×3×3 (19 %)": _tiles(1, 3, 3),
    "3×3×3, the first third of the steps whole": _tiles(3, 3, 3, whole=1 / 3),
    "3×2×2, the first third of the steps whole": _tiles(3, 2, 2, whole=1 / 3),
    "cache first-block:0.05": Setting({"cache": "first-block:0.05"}),
    "cache first-block:0.1": Setting({"cache": "first-block:0.1"}),
    "cache first-block:0.2": Setting({"cache": "first-block:0.2"}),
    "SAGE_ATTN": Setting({"attention_backend": "SAGE_ATTN"}),
    "fp8 linear layers": _codes("fp8"),
    "int8 linear layers": _codes("int8"),
}


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        looks: share of clips with the right colours and shapes, and no others.
        motion: share of clips in which everything moves as it should.
        psnr: decibels against the first setting, over all clips; None for the first, and where nothing differs.
        ssim: likewise, the mean over clips.
        step: seconds.
    """

    setting: str
    clips: int
    looks: float
    motion: float
    psnr: float | None
    ssim: float
    step: float


def generate(model: str, setting: Setting, asked: list[tuple[str, Scene]], steps: int) -> tuple[np.ndarray, float]:
    """Clips ``(clips, frames, height, width, 3)``, uint8, and the median seconds of a step."""
    clips, times = [], []
    taken = max(round(setting.steps * steps), 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        VideoGenerator.from_pretrained(model, num_gpus=1, **setting.made_with(taken, Path(folder))) as generator,
    ):
        for number, (caption, _) in enumerate(asked):
            video = generator.generate_video(
                caption,
                seed=number,
                num_inference_steps=taken,
                save_video=False,
                return_frames=True,
                progress=False,
            )
            assert video.frames is not None
            clips.append(video.frames)
            times += video.step_seconds[1:] if number else ()
        if not times:
            times = list(video.step_seconds[1:])
    return np.stack(clips), statistics.median(times)


def psnr(one: np.ndarray, other: np.ndarray) -> float | None:
    """Decibels between uint8 pictures; None if they are equal."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else None


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of uint8 pictures ``(…, height, width, 3)``, in [-1, 1]; 1 if they are equal.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), with its
    Gaussian window of 11 × 11 pixels.
    """
    at = torch.arange(11) - 5.0
    line = torch.exp(-(at**2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2)[None, None]

    def planes(pictures: np.ndarray) -> Tensor:
        flat = torch.from_numpy(pictures).reshape(-1, *pictures.shape[-3:])
        return flat.movedim(-1, 1).flatten(0, 1)[:, None].float()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window)

    a, b = planes(one), planes(other)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    shared = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(similar.mean())


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| setting | colours and shapes | motion | PSNR | SSIM | step | speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        decibels = "–" if row.psnr is None else f"{row.psnr:.1f} dB"
        lines.append(
            f"| {row.setting} | {row.looks:.0%} | {row.motion:.0%} | {decibels} | {row.ssim:.3f} "
            f"| {row.step * 1e3:.1f} ms | {rows[0].step / row.step:.2f} × |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fastvideo/shapes", help="folder of the trained pipeline, or its id")
    parser.add_argument("--count", type=int, default=48, help="captions")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    parser.add_argument("--strips", type=Path, help="picture: some clips under every setting")
    options = parser.parse_args()
    asked = held_out_set(options.count)
    rows: list[Row] = []
    shown: list[np.ndarray] = []
    first: np.ndarray | None = None
    for name in options.settings:
        clips, step = generate(options.model, SETTINGS[name], asked, options.steps)
        first = clips if first is None else first
        scores = [score(clip, scene) for clip, (_, scene) in zip(clips, asked, strict=True)]
        looks = statistics.mean(found.looks for found in scores)
        motion = statistics.mean(found.motion for found in scores)
        rows.append(Row(name, len(clips), looks, motion, psnr(clips, first), ssim(clips, first), step))
        shown.append(clips[:SHOWN])
        print(rows[-1], flush=True)
        if options.output:
            options.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))
    if options.strips:
        strip(np.concatenate([clips[number : number + 1] for number in range(SHOWN) for clips in shown])).save(
            options.strips
        )


if __name__ == "__main__":
    main()
