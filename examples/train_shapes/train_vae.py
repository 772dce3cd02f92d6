"""Part 1: the autoencoder, on clips that are drawn as they are needed.

python -m examples.train_shapes.train_vae --minutes 4
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from .parts import build_vae
from .render import render
from .run import parse
from .scenes import sample_scene

KL_WEIGHT = 3e-4
LEARNING_RATE = 2e-3


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """As ``vae.decode``, frame by frame with its caches, but without the clamp, through which no gradient comes."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for number in range(latents.shape[2]):
        vae._conv_idx = [0]
        one = hidden[:, :, number : number + 1]
        frames.append(vae.decoder(one, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=number == 0))
    vae.clear_cache()
    video = torch.cat(frames, 2).float()
    batch, channels, length, height, width = video.shape
    size = vae.config.patch_size
    # The inverse of the class's own patchify: channels are (colour, column, row) within a patch.
    video = video.view(batch, channels // size**2, size, size, length, height, width)
    return video.permute(0, 1, 4, 5, 3, 6, 2).reshape(batch, -1, length, height * size, width * size)


def main() -> None:
    run, options = parse(__doc__ or "", "vae", steps=2500)
    batch = options.batch or 32
    vae = build_vae().to(run.device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    step = 0
    if (state := run.load()) is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    bf16 = torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda")
    while step < run.steps:
        random_ = random.Random(step)
        clips = render([sample_scene(random_) for _ in range(batch)], run.device)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * run.learning_rate(step)
        with bf16:
            posterior = vae.encode(clips).latent_dist
            drawn = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            shown = decode(vae, drawn)
        error = F.l1_loss(shown, clips) + F.mse_loss(shown, clips)
        loss = error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0 or step == run.steps:
            psnr = -10 * torch.log10(F.mse_loss(shown.clamp(-1, 1), clips) / 4)
            spread = float(posterior.std.mean() / posterior.mean.std())
            print(f"step {step}: loss {loss:.4f}, {psnr:.1f} dB, noise {spread:.2f}, {run.seconds:.0f} s", flush=True)
        if run.out_of_time:
            break
    run.save(model=vae.state_dict(), optimizer=optimizer.state_dict(), step=step)
    print(f"{step} of {run.steps} steps, {run.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
