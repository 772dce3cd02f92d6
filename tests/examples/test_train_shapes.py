"""Scenes are drawn as their captions say; training resumes where it stopped."""

from __future__ import annotations

import importlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.train_shapes.detect import score
from examples.train_shapes.parts import build_tokenizer
from examples.train_shapes.render import render
from examples.train_shapes.scenes import COLOURS, MOTIONS, SHAPES, Scene, describe, held_out_set, sample_scene
from examples.train_shapes.train_text import NOTHING, draw_captions


def frames(scenes: list[Scene]) -> list[object]:
    return list(((render(scenes) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy())


def test_detector_finds_what_was_drawn_and_nothing_else() -> None:
    random_ = random.Random(11)
    scenes = [sample_scene(random_, held_out=number % 2 == 1) for number in range(10)]
    for clip, scene in zip(frames(scenes), scenes, strict=True):
        assert score(clip, scene).looks and score(clip, scene).motion, scene
        first, *rest = scene.objects
        for change in ({"shape": _other(first.shape, SHAPES)}, {"colour": _free_colour(scene)}):
            assert not score(clip, replace(scene, objects=(replace(first, **change), *rest))).looks
        moved = replace(first, motion=_other(first.motion, MOTIONS))
        assert not score(clip, replace(scene, objects=(moved, *rest))).motion
        if rest:
            assert not score(clip, replace(scene, objects=tuple(rest))).looks


def _other(value: str, values: tuple[str, ...]) -> str:
    return values[values.index(value) - 1]


def _free_colour(scene: Scene) -> str:
    taken = {item.colour for item in scene.objects}
    return next(colour for colour in ("red", "green", "blue", "yellow") if colour not in taken)


def test_held_out_combinations_are_never_trained() -> None:
    random_ = random.Random(5)
    trained = {(o.colour, o.shape, o.motion) for _ in range(3000) for o in sample_scene(random_).objects}
    asked = held_out_set(100)
    assert asked == held_out_set(120)[:100]
    for caption, scene in asked:
        assert any((o.colour, o.shape, o.motion) not in trained for o in scene.objects)
        assert all(f"{o.size} {o.colour} {o.shape}" in caption for o in scene.objects)
        assert scene.background in caption


def test_captions_vary() -> None:
    scene = sample_scene(random.Random(1))
    assert len({describe(scene, random.Random(seed)) for seed in range(20)}) > 1


def test_every_word_of_a_phrase_stands_for_its_object() -> None:
    tokenizer = build_tokenizer()
    tokens, labels = draw_captions(3, 12, tokenizer)
    scenes = set()
    for words, told in zip(tokens, labels, strict=True):
        inside = told[:, 0] != NOTHING
        named = [word.removeprefix("▁") for word in tokenizer.convert_ids_to_tokens(words[inside].tolist())]
        colours = [number for number, word in enumerate(named) if word in COLOURS]
        for at in colours:  # a shape follows its colour; later, something may move in a circle
            colour, shape, *_ = told[inside][at].tolist()
            assert (list(COLOURS)[colour], SHAPES[shape]) == (named[at], named[at + 1])
        places = told[inside, -1].unique()
        assert len(colours) == len(places)
        scenes.add(tuple(places.tolist()))
    assert scenes == {(0,), (1, 2), (3, 4, 5)}


def test_training_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "--folder", str(tmp_path), *words])
        importlib.import_module(f"examples.train_shapes.{name}").main()
        return capsys.readouterr().out.splitlines()[-1]

    assert part("train_vae", "--steps", "1", "--batch", "1").startswith("1 of 1 steps")
    assert part("make_data", "--clips", "4").startswith("4 clips")
    assert part("train_text", "--steps", "1", "--batch", "2").startswith("1 of 1 steps")
    assert part("train_denoiser", "--steps", "2", "--batch", "2", "--minutes", "0.0001").startswith("1 of 2 steps")
    assert part("train_denoiser", "--steps", "2", "--batch", "2").startswith("2 of 2 steps")
    assert part("export", "--to", str(tmp_path / "pipeline")).endswith("MB in all")
    weights = sorted(file.stat().st_size for file in (tmp_path / "pipeline").rglob("*.safetensors"))
    assert len(weights) == 4 and weights[-1] < 15e6 and sum(weights) < 40e6
