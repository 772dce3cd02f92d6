"""Part 3: the text encoder, on captions alone.

    python -m examples.train_shapes.train_text

Every word of an object's phrase has to tell the colour, shape, size, motion and place of that object. A denoiser that
is trained along with an encoder from nothing learns all words and draws what they name, but for very long does not
learn which of them belong together; so that is learnt here, in a few minutes, on a CPU as well.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fastvideo.frontends import loading

from .parts import TEXT_DIM, TEXT_LENGTH, build_text_encoder, build_tokenizer
from .run import Run, advance, begin, optimizers, parser, resume
from .scenes import COLOURS, MOTIONS, SHAPES, SIZES, Scene, SceneObject, describe, phrases, sample_scene

LEARNING_RATE = 2e-3
NOTHING = -100
"""Label of words outside every object's phrase."""
KINDS = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES), "motion": MOTIONS}
PLACES = 6
"""One of one, two or three objects."""


class Reader(nn.Module):
    """A text encoder, and what is read from each of its tokens."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocab_size)
        self.heads = nn.ModuleList(nn.Linear(TEXT_DIM, classes) for classes in (*map(len, KINDS.values()), PLACES))

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens ``(batch, 64)``, padded with zeros; ``(batch, 64, 256)``."""
        encoded: Tensor = self.text_encoder(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        return encoded


def labels_of(scene: Scene, number: int) -> list[int]:
    """Of one object, a class for each head."""
    item: SceneObject = scene.objects[number]
    count = len(scene.objects)
    return [*(classes.index(getattr(item, kind)) for kind, classes in KINDS.items()), count * (count - 1) // 2 + number]


def draw_captions(step: int, size: int, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Tokens ``(size, 64)`` and labels ``(size, 64, 5)`` of new scenes; the same ones for a step."""
    random_ = random.Random(f"captions {step}")
    scenes = [sample_scene(random_) for _ in range(size)]
    captions = [describe(scene, random.Random(f"{step} {number}")) for number, scene in enumerate(scenes)]
    found = tokenizer(
        captions, padding="max_length", max_length=TEXT_LENGTH, return_offsets_mapping=True, return_tensors="pt"
    )
    labels = torch.full((size, TEXT_LENGTH, len(KINDS) + 1), NOTHING)
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        end = 0
        for place, phrase in enumerate(phrases(scene, random.Random(f"{step} {number}"))):
            start = caption.index(phrase, end)
            end = start + len(phrase)
            first, last = found.offset_mapping[number].unbind(-1)
            inside = (last > start) & (last <= end) & (last > first)
            labels[number, inside] = torch.tensor(labels_of(scene, place))
    return found.input_ids, labels


def train(run: Run, options: argparse.Namespace) -> None:
    tokenizer = build_tokenizer()
    reader = Reader(len(tokenizer)).to(run.device)
    before = None
    if options.near is not None:
        before = loading.open_pipeline(options.near).load("text_encoder", torch.float32, None).value.to(run.device)
    steppers = optimizers(reader, LEARNING_RATE)
    if (state := run.load()) is not None:
        reader.load_state_dict(state["reader"])

    def save(step: int) -> None:
        run.save(
            model=reader.text_encoder.state_dict(),
            reader=reader.state_dict(),
            optimizers=[stepper.state_dict() for stepper in steppers],
            step=step,
        )

    for step in run.steps_from(resume(steppers, state), save):
        tokens, labels = (part.to(run.device) for part in draw_captions(step, options.batch or 128, tokenizer))
        encoded = reader.encode(tokens)
        told = [head(encoded) for head in reader.heads]
        loss = torch.stack([F.cross_entropy(one.flatten(0, 1), labels[..., n].flatten()) for n, one in enumerate(told)])
        drift = torch.zeros((), device=run.device)
        if before is not None:
            with torch.no_grad():
                old = before(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
            drift = ((encoded - old)[tokens != 0] ** 2).mean() / (old[tokens != 0] ** 2).mean()
        reader.zero_grad()
        (loss.sum() + options.hold * drift).backward()
        advance(steppers, LEARNING_RATE * run.learning_rate(step))
        if (step + 1) % 50 == 0:
            right = [
                float((one.argmax(-1) == labels[..., n])[labels[..., n] != NOTHING].float().mean())
                for n, one in enumerate(told)
            ]
            shares = ", ".join(f"{name} {share:.1%}" for name, share in zip([*KINDS, "place"], right, strict=True))
            run.log(step, f"loss {loss.sum():.3f}, drift {drift:.3f}, {shares}")


def main() -> None:
    arguments = parser(__doc__ or "", steps=600)
    arguments.add_argument(
        "--near", type=Path, help="pipeline whose encoder's outputs are to be kept, as far as they go"
    )
    arguments.add_argument("--hold", type=float, default=5.0, help="weight of that")
    options = arguments.parse_args()
    train(begin(options, "text"), options)


if __name__ == "__main__":
    main()
