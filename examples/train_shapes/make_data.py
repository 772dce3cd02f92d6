"""Part 2: latents and tokens of the training clips, so that the denoiser's training draws and encodes nothing.

python -m examples.train_shapes.make_data --clips 80000
"""

from __future__ import annotations

import random
import time

import torch

from .parts import TEXT_LENGTH, build_tokenizer, build_vae
from .render import render
from .run import begin, parser
from .scenes import describe, sample_scene

CAPTIONS = 4
"""Different captions per clip."""
BATCH = 256


def main() -> None:
    options = parser(__doc__ or "", steps=0).parse_args()
    run = begin(options, "vae")
    state = run.load()
    if state is None:
        raise SystemExit(f"error: '{run.file}' does not exist; train the autoencoder first")
    vae = build_vae().to(run.device).eval()
    vae.load_state_dict(state["model"])
    tokenizer = build_tokenizer()
    start = time.monotonic()
    random_ = random.Random(1)
    scenes = [sample_scene(random_) for _ in range(options.clips)]
    captions = [describe(scene, random_) for scene in scenes for _ in range(CAPTIONS)]
    tokens = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    latents = []
    with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
        for at in range(0, len(scenes), BATCH):
            clips = render(scenes[at : at + BATCH], run.device)
            latents.append(vae.encode(clips).latent_dist.mean.to(torch.bfloat16).cpu())
    whole = torch.cat(latents)
    per_channel = whole[:4096].float().transpose(0, 1).flatten(1)
    data = {
        "latents": whole,
        "tokens": tokens.input_ids.view(-1, CAPTIONS, TEXT_LENGTH).to(torch.int16),
        "mean": per_channel.mean(1),
        "std": per_channel.std(1),
    }
    torch.save(data, run.folder / "data.pt")
    longest = int(tokens.attention_mask.sum(-1).max())
    print(f"{len(scenes)} clips in {time.monotonic() - start:.0f} s, longest caption {longest} tokens")


if __name__ == "__main__":
    main()
