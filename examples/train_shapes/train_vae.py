"""Part 1: the autoencoder, on clips that are drawn as they are needed.

    python -m examples.train_shapes.train_vae --frames 9 --folder outputs/shapes/short
    python -m examples.train_shapes.train_vae --start outputs/shapes/short/vae.pt

Half of a clip teaches most, in half the time; but what the decoder remembers of earlier frames fits whole clips only
when it has seen them.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .parts import BASE, build_vae
from .render import NUM_FRAMES, render
from .run import Replayed, advance, begin, optimizers, parser, resume
from .scenes import sample_scene

KL_WEIGHT = 1e-4
LEARNING_RATE = 2e-3
DRAWN_AT_ONCE = 16
"""Steps whose clips are drawn together; drawing waits for the device, training need not."""


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


def draw(number: int, batch: int, frames: int, device: torch.device) -> list[Tensor]:
    """Clips of :data:`DRAWN_AT_ONCE` steps, the same ones whenever they are asked for; any ``frames`` of each."""
    random_ = random.Random(number)
    clips = render([sample_scene(random_) for _ in range(batch * DRAWN_AT_ONCE)], device).split(batch)
    starts = [random_.randint(0, NUM_FRAMES - frames) for _ in clips]
    return [clip[:, :, start : start + frames] for clip, start in zip(clips, starts, strict=True)]


class Rows(nn.Module):
    """The weight of a convolution as a matrix, a row for each output channel, so that Muon trains it."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        return rows.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)


def as_matrices(vae: AutoencoderKLWan) -> None:
    """Give Muon the convolutions that are wide on both sides."""
    for module in list(vae.modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d) and min(module.weight.shape[:2]) >= BASE:
            parametrize.register_parametrization(module, "weight", Rows(module.weight.shape))


def weights(vae: AutoencoderKLWan) -> dict[str, Tensor]:
    """The state of the model as it was built, without :class:`Rows`."""
    shapes = {name: value.shape for name, value in build_vae().state_dict().items()}
    state = {name.replace("parametrizations.weight.original", "weight"): v for name, v in vae.state_dict().items()}
    return {name: state[name].view(shape) for name, shape in shapes.items()}


def learn(vae: AutoencoderKLWan, clips: Tensor) -> dict[str, Tensor]:
    """Gradients of a batch, and its figures."""
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.is_cuda):
        posterior = vae.encode(clips).latent_dist
        latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        shown = decode(vae, latents)
    loss = F.l1_loss(shown, clips) + F.mse_loss(shown, clips) + KL_WEIGHT * divergence(posterior)
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    with torch.no_grad():
        psnr = -10 * torch.log10(F.mse_loss(shown.clamp(-1, 1), clips) / 4)
        noise = posterior.std.mean() / posterior.mean.std()
    return {"loss": loss.detach(), "psnr": psnr, "noise": noise}


def divergence(posterior: Any) -> Tensor:
    """From a normal distribution, per latent; the class's own leaves out one of five dimensions."""
    mean, variance = posterior.mean.float(), posterior.var.float()
    return 0.5 * (mean**2 + variance - 1 - posterior.logvar.float()).mean()


def main() -> None:
    arguments = parser(__doc__ or "", steps=800)
    arguments.add_argument("--frames", type=int, default=NUM_FRAMES, help="of each clip")
    arguments.add_argument("--start", type=Path, help="checkpoint whose weights a new training starts from")
    options = arguments.parse_args()
    run, batch = begin(options, "vae"), options.batch or 32
    torch.backends.cudnn.benchmark = True
    vae = build_vae().to(run.device)
    state = run.load()
    if state is None and options.start is not None:
        vae.load_state_dict(torch.load(options.start, map_location="cpu", weights_only=True)["model"])
    elif state is not None:
        vae.load_state_dict(state["model"])
    as_matrices(vae)
    steppers = optimizers(vae, LEARNING_RATE)
    done = resume(steppers, state)

    def save(step: int) -> None:
        run.save(model=weights(vae), optimizers=[stepper.state_dict() for stepper in steppers], step=step)

    drawn = draw(done // DRAWN_AT_ONCE, batch, options.frames, run.device)
    gradients = Replayed(vae, partial(learn, vae))
    for step in run.steps_from(done, save):
        if step % DRAWN_AT_ONCE == 0:
            drawn = draw(step // DRAWN_AT_ONCE, batch, options.frames, run.device)
        figures = gradients(drawn[step % DRAWN_AT_ONCE])
        advance(steppers, LEARNING_RATE * run.learning_rate(step))
        if (step + 1) % 100 == 0 or step + 1 == run.steps:
            loss, psnr, noise = (float(figures[name]) for name in ("loss", "psnr", "noise"))
            run.log(step, f"loss {loss:.4f}, {psnr:.1f} dB, noise {noise:.3f}")


if __name__ == "__main__":
    main()
