"""Part 1: the autoencoder, on clips that are drawn as they are needed.

python -m examples.train_shapes.train_vae --minutes 4
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from .parts import build_vae
from .render import NUM_FRAMES, render
from .run import parse
from .scenes import sample_scene

KL_WEIGHT = 2e-5
LEARNING_RATE = 2e-3
FRAMES = 9
"""Of the 17 of a clip: the first latent, the second, whose cache is empty, and one like all that follow."""
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


def draw(number: int, batch: int, device: torch.device) -> list[Tensor]:
    """Clips of :data:`DRAWN_AT_ONCE` steps, the same ones whenever they are asked for, cut to :data:`FRAMES`."""
    random_ = random.Random(number)
    clips = render([sample_scene(random_) for _ in range(batch * DRAWN_AT_ONCE)], device).split(batch)
    starts = [random_.randint(0, NUM_FRAMES - FRAMES) for _ in clips]
    return [clip[:, :, start : start + FRAMES] for clip, start in zip(clips, starts, strict=True)]


class Step:
    """One step of the training; on a GPU a graph that is replayed, since its thousands of small kernels take longer to
    launch than to run."""

    def __init__(self, vae: AutoencoderKLWan, optimizer: torch.optim.Optimizer, clips: Tensor) -> None:
        self._vae, self._optimizer = vae, optimizer
        self.clips = clips.clone()
        self._pace(0.0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.result: dict[str, Tensor] = {}
        if clips.is_cuda:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self._optimizer.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run()

    def __call__(self, clips: Tensor, learning_rate: float) -> None:
        """Train on ``clips``; what came out is in :attr:`result`."""
        self.clips.copy_(clips)
        self._pace(learning_rate)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _pace(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"].fill_(learning_rate)

    def _run(self) -> None:
        with torch.autocast(self.clips.device.type, torch.bfloat16, enabled=self.clips.is_cuda):
            posterior = self._vae.encode(self.clips).latent_dist
            latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            shown = decode(self._vae, latents)
        squared = F.mse_loss(shown, self.clips)
        loss = F.l1_loss(shown, self.clips) + squared + KL_WEIGHT * _divergence(posterior)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._vae.parameters(), 1.0)
        self._optimizer.step()
        with torch.no_grad():
            psnr = -10 * torch.log10(F.mse_loss(shown.clamp(-1, 1), self.clips) / 4)
        noise = posterior.std.mean() / posterior.mean.std()
        self.result = {"loss": loss.detach(), "psnr": psnr, "noise": noise.detach()}


def _divergence(posterior: Any) -> Tensor:
    """From a normal distribution, per latent; the class's own leaves a dimension out of five."""
    mean, variance = posterior.mean.float(), posterior.var.float()
    return 0.5 * (mean**2 + variance - 1 - posterior.logvar.float()).mean()


def main() -> None:
    run, options = parse(__doc__ or "", "vae", steps=3000)
    batch = options.batch or 32
    torch.backends.cudnn.benchmark = True
    vae = build_vae().to(run.device)
    optimizer = torch.optim.AdamW(
        vae.parameters(),
        lr=torch.zeros((), device=run.device),
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        capturable=run.on_gpu,
    )
    step = 0
    if (state := run.load()) is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    drawn = draw(step // DRAWN_AT_ONCE, batch, run.device)
    train = Step(vae, optimizer, drawn[0])
    while step < run.steps:
        if step % DRAWN_AT_ONCE == 0:
            drawn = draw(step // DRAWN_AT_ONCE, batch, run.device)
        train(drawn[step % DRAWN_AT_ONCE], LEARNING_RATE * run.learning_rate(step))
        step += 1
        if step % 100 == 0 or step == run.steps:
            found = {name: float(value) for name, value in train.result.items()}
            print(
                f"step {step}: loss {found['loss']:.4f}, {found['psnr']:.1f} dB, noise {found['noise']:.2f}, "
                f"{run.seconds:.0f} s",
                flush=True,
            )
        if run.out_of_time:
            break
    run.save(model=vae.state_dict(), optimizer=optimizer.state_dict(), step=step)
    print(f"{step} of {run.steps} steps, {run.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
