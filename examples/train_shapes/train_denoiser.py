"""Part 3: the denoiser and its text encoder, together, by flow matching (Lipman et al., Flow Matching, 2023).

    python -m examples.train_shapes.train_denoiser --minutes 9      # again, until all steps are done

The weights that are kept are an average over the last steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from .parts import FLOW_SHIFT, TEXT_LENGTH, build_text_encoder, build_tokenizer, build_transformer
from .run import Run, advance, begin, optimizers, parser

LEARNING_RATE = 2e-3
DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance."""
LONG = 512
LONG_SHARE = 0.5
"""Share of batches that are padded as Wan's own pipeline pads."""
AVERAGED_OVER = 400


class Denoiser(nn.Module):
    """What is trained: text encoder and transformer."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocab_size)
        self.transformer = build_transformer()

    def forward(self, noisy: Tensor, sigma: Tensor, tokens: Tensor, length: int) -> Tensor:
        """The velocity.

        Args:
            noisy: latents ``(batch, 8, 5, 16, 16)``.
            sigma: share of noise ``(batch,)``.
            tokens: ``(batch, 64)``, padded with zeros.
            length: text tokens that the transformer is given.
        """
        mask = tokens != 0
        text = self.text_encoder(tokens, attention_mask=mask.long()).last_hidden_state * mask[..., None]
        text = nn.functional.pad(text, (0, 0, 0, length - text.shape[1]))
        velocity: Tensor = self.transformer(noisy, sigma * 1000, text, return_dict=False)[0]
        return velocity


def batches(data: dict[str, Tensor], size: int, first: int, empty: Tensor, device: torch.device) -> Iterator[Any]:
    """Latents and tokens for each step from ``first`` on; the same ones for a step, however often it was resumed."""
    count = len(data["latents"])
    latents, all_tokens = data["latents"].to(device), data["tokens"].to(device)
    for step in itertools.count(first):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(count, (size,), generator=generator).to(device)
        caption = torch.randint(all_tokens.shape[1], (size,), generator=generator).to(device)
        dropped = (torch.rand(size, 1, generator=generator) < DROPPED).to(device)
        tokens = torch.where(dropped, empty, all_tokens[chosen, caption].long())
        is_long = float(torch.rand(1, generator=generator)) < LONG_SHARE
        yield latents[chosen].float(), tokens, LONG if is_long else TEXT_LENGTH


def draw_sigma(size: int, device: torch.device) -> Tensor:
    """Logit-normal, then shifted towards noise (Esser et al., Scaling Rectified Flow Transformers, 2024)."""
    even = torch.sigmoid(torch.randn(size, device=device))
    return FLOW_SHIFT * even / (1 + (FLOW_SHIFT - 1) * even)


def train(run: Run, data: dict[str, Tensor], batch: int) -> None:
    tokenizer = build_tokenizer()
    model = Denoiser(len(tokenizer)).to(run.device)
    averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
    steppers = optimizers(model, LEARNING_RATE)
    step = 0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        averaged = state["averaged"]
        for stepper, stored in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(stored)
        step = state["step"]
    torch.manual_seed(step)
    if run.device.type == "cuda":
        for block in model.transformer.blocks:
            block.compile(dynamic=False)
    mean, std = (data[name].to(run.device).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    empty = tokenizer("", padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids[0].to(run.device)
    bf16 = torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda")
    total = torch.zeros((), device=run.device)

    def save() -> None:
        run.save(
            model=model.state_dict(),
            averaged=averaged,
            optimizers=[stepper.state_dict() for stepper in steppers],
            step=step,
            mean=data["mean"],
            std=data["std"],
        )

    for clean, tokens, length in batches(data, batch, step, empty, run.device):
        if run.is_done(step):
            break
        clean = (clean - mean) / std
        noise, sigma = torch.randn_like(clean), draw_sigma(len(clean), run.device)
        share = sigma.view(-1, 1, 1, 1, 1)
        with bf16:
            velocity = model((1 - share) * clean + share * noise, sigma, tokens, length)
        loss = nn.functional.mse_loss(velocity.float(), noise - clean)
        model.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        advance(steppers, LEARNING_RATE * run.learning_rate(step))
        step += 1
        kept = min(1 - 1 / AVERAGED_OVER, step / (step + 10))
        with torch.no_grad():
            values = list(model.state_dict().values())
            torch._foreach_lerp_(list(averaged.values()), values, 1 - kept)
        total += loss.detach()
        if step % 100 == 0:
            print(f"step {step}: loss {total.item() / 100:.4f}, {run.seconds:.0f} s", flush=True)
            total.zero_()
        if run.out_of_time:
            break
        if run.save_is_due:
            save()
    save()
    print(f"{step} of {run.steps} steps, {run.seconds:.0f} s", flush=True)


def main() -> None:
    options = parser(__doc__ or "", steps=6000).parse_args()
    run = begin(options, "denoiser")
    file = run.folder / "data.pt"
    if not file.exists():
        raise SystemExit(f"error: '{file}' does not exist; run make_data first")
    data = torch.load(file, weights_only=True)
    train(run, data, options.batch or 128)


if __name__ == "__main__":
    main()
