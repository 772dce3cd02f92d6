"""Part 4: the denoiser, by flow matching (Lipman et al., Flow Matching, 2023).

    python -m examples.train_shapes.train_denoiser --minutes 9      # again, until all steps are done

What things look like is learnt from first frames alone, which are latents of their own in Wan's autoencoder and cost a
fifth of a clip; how they move, from clips after that. The weights that are kept are an average over the last steps.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fastvideo.frontends import loading

from .parts import FLOW_SHIFT, TEXT_LENGTH, build_text_encoder, build_tokenizer, build_transformer
from .run import Replayed, Run, advance, begin, optimizers, parser, resume

LEARNING_RATE = 2e-3
DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance."""
LONG = 512
"""Text tokens that Wan's own pipeline pads to."""
AVERAGED_OVER = 400
STILLS_PER_CLIP = 4
"""How many times more first frames than clips are in a batch."""


class Denoiser(nn.Module):
    """The transformer, which is trained, behind the text encoder, which has been."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocab_size).requires_grad_(False)
        self.transformer = build_transformer()

    def forward(self, noisy: Tensor, sigma: Tensor, tokens: Tensor, length: int) -> Tensor:
        """The velocity.

        Args:
            noisy: latents ``(batch, 8, 5, 16, 16)``, or of fewer frames.
            sigma: share of noise ``(batch,)``.
            tokens: ``(batch, 64)``, padded with zeros.
            length: text tokens that the transformer is given.
        """
        mask = tokens != 0
        with torch.no_grad():
            text = self.text_encoder(tokens, attention_mask=mask.long()).last_hidden_state * mask[..., None]
        text = nn.functional.pad(text, (0, 0, 0, length - text.shape[1]))
        velocity: Tensor = self.transformer(noisy, sigma * 1000, text, return_dict=False)[0]
        return velocity


def draw_batch(
    latents: Tensor, tokens: Tensor, empty: Tensor, step: int, size: int, *, stills: bool, long_share: float
) -> tuple[Tensor, Tensor, int]:
    """What a step learns from; the same for a step, however often the training was resumed.

    Returns:
        Latents ``(size, 8, 5, 16, 16)``, or ``(4 · size, 8, 1, 16, 16)`` of first frames; tokens ``(…, 64)``; and the
        length that their text is padded to.
    """
    generator = torch.Generator().manual_seed(step)
    size = size * STILLS_PER_CLIP if stills else size
    chosen = torch.randint(len(latents), (size,), generator=generator).to(latents.device)
    caption = torch.randint(tokens.shape[1], (size,), generator=generator).to(latents.device)
    dropped = (torch.rand(size, 1, generator=generator) < DROPPED).to(latents.device)
    is_long = float(torch.rand(1, generator=generator)) < long_share
    clips = latents[chosen, :, :1] if stills else latents[chosen]
    return (
        clips.float(),
        torch.where(dropped, empty, tokens[chosen, caption].long()),
        LONG if is_long else TEXT_LENGTH,
    )


def draw_sigma(size: int, shift: float, device: torch.device) -> Tensor:
    """Logit-normal, then shifted towards noise (Esser et al., Scaling Rectified Flow Transformers, 2024)."""
    even = torch.sigmoid(torch.randn(size, device=device))
    return shift * even / (1 + (shift - 1) * even)


def learn(denoiser: Denoiser, shift: float, clean: Tensor, tokens: Tensor, *, length: int) -> dict[str, Tensor]:
    """Gradients of a batch, and its loss."""
    noise, sigma = torch.randn_like(clean), draw_sigma(len(clean), shift, clean.device)
    share = sigma.view(-1, 1, 1, 1, 1)
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.is_cuda):
        velocity = denoiser((1 - share) * clean + share * noise, sigma, tokens, length)
    loss = nn.functional.mse_loss(velocity.float(), noise - clean)
    loss.backward()
    clip_grad_norm_(denoiser.parameters(), 1.0)
    return {"loss": loss.detach()}


def train(run: Run, data: dict[str, Tensor], options: argparse.Namespace) -> None:
    tokenizer = build_tokenizer()
    denoiser = Denoiser(len(tokenizer)).to(run.device)
    if (state := run.load()) is not None:
        denoiser.load_state_dict(state["model"])
    else:
        trained = torch.load(run.folder / "text.pt", map_location="cpu", weights_only=True)
        denoiser.text_encoder.load_state_dict(trained["model"])
        if options.start is not None:
            started = loading.open_pipeline(options.start).load("transformer", torch.float32, None).value
            denoiser.transformer.load_state_dict(started.state_dict())
    averaged = {name: value.detach().clone() for name, value in denoiser.state_dict().items()}
    steppers = optimizers(denoiser, options.learning_rate)
    if state is not None:
        averaged = state["averaged"]
    done = resume(steppers, state)
    torch.manual_seed(done)
    if run.device.type == "cuda":
        for block in denoiser.transformer.blocks:
            block.compile(dynamic=False)
    gradients = Replayed(denoiser, partial(learn, denoiser, options.shift))
    mean, std = (data[name].to(run.device).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    empty = tokenizer("", padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids[0].to(run.device)
    latents, all_tokens = (data[name].to(run.device) for name in ("latents", "tokens"))
    total = torch.zeros((), device=run.device)

    def save(step: int) -> None:
        run.save(
            model=denoiser.state_dict(),
            averaged=averaged,
            optimizers=[stepper.state_dict() for stepper in steppers],
            step=step,
            mean=data["mean"],
            std=data["std"],
        )

    for step in run.steps_from(done, save):
        stills = run.progress(step) < options.stills_until
        share = 0.0 if stills else options.long_share
        size = options.batch or 128
        clean, tokens, length = draw_batch(latents, all_tokens, empty, step, size, stills=stills, long_share=share)
        total += gradients((clean - mean) / std, tokens, length=length)["loss"]
        advance(steppers, options.learning_rate * run.learning_rate(step))
        kept = min(1 - 1 / AVERAGED_OVER, (step + 1) / (step + 11))
        with torch.no_grad():
            values = list(denoiser.state_dict().values())
            torch._foreach_lerp_(list(averaged.values()), values, 1 - kept)
        if (step + 1) % 100 == 0:
            run.log(step, f"loss {total.item() / 100:.4f}{' of stills' * stills}")
            total.zero_()


def main() -> None:
    arguments = parser(__doc__ or "", steps=6000)
    arguments.add_argument("--start", type=Path, help="pipeline whose transformer a new training starts from")
    arguments.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="the largest")
    arguments.add_argument("--stills-until", type=float, default=0.2, help="share of the training on stills")
    arguments.add_argument("--long-share", type=float, default=0.0, help="of the batches, text padded to 512 tokens")
    arguments.add_argument("--shift", type=float, default=FLOW_SHIFT, help="towards noise, where scenes are laid out")
    options = arguments.parse_args()
    run = begin(options, "denoiser")
    for name, part in (("text", "train_text"), ("data", "make_data")):
        if not (run.folder / f"{name}.pt").exists():
            raise SystemExit(f"error: '{run.folder / name}.pt' does not exist; run {part} first")
    train(run, torch.load(run.folder / "data.pt", weights_only=True), options)


if __name__ == "__main__":
    main()
