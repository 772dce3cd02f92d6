"""Part 5: the pipeline folder in Diffusers layout, bfloat16, in files of at most 15 MB.

python -m examples.train_shapes.export --folder outputs/shapes --to outputs/shapes/pipeline
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor

from .parts import build_scheduler, build_text_encoder, build_tokenizer, build_transformer, build_vae
from .render import NUM_FRAMES, SIZE

SHARD = "15MB"
SAMPLING = {
    "negative_prompt": "",
    "height": SIZE,
    "width": SIZE,
    "num_frames": NUM_FRAMES,
    "fps": 8,
    "num_inference_steps": 30,
    "guidance_scale": 4.0,
    "max_sequence_length": 64,
}
"""Best settings, which travel with the weights."""


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights under one name."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def build_pipeline(folder: Path) -> WanPipeline:
    """The trained pipeline, from the checkpoints in ``folder``; averaged weights."""
    trained = torch.load(folder / "denoiser.pt", map_location="cpu", weights_only=True)
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    text_encoder, transformer = build_text_encoder(len(tokenizer)), build_transformer()
    vae = build_vae(trained["mean"].tolist(), trained["std"].tolist())
    text_encoder.load_state_dict(part(trained["averaged"], "text_encoder"))
    transformer.load_state_dict(part(trained["averaged"], "transformer"))
    vae.load_state_dict(torch.load(folder / "vae.pt", map_location="cpu", weights_only=True)["model"])
    for model in (text_encoder, transformer, vae):
        model.eval().to(torch.bfloat16)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/shapes"))
    parser.add_argument("--to", type=Path, default=Path("outputs/shapes/pipeline"))
    options = parser.parse_args()
    build_pipeline(options.folder).save_pretrained(options.to, max_shard_size=SHARD)
    (options.to / "fastvideo.json").write_text(json.dumps({"sampling": SAMPLING}, indent=2) + "\n")
    sizes = {str(file.relative_to(options.to)): file.stat().st_size for file in options.to.rglob("*.safetensors")}
    for name, size in sorted(sizes.items()):
        print(f"{size / 1e6:6.1f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:6.1f} MB in all")


if __name__ == "__main__":
    main()
