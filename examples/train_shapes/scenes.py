"""Scenes that a procedural renderer can draw, and the English captions that describe them.

A scene has one to three objects, each with a colour, a shape, a size and a motion, on a background under some light.
Objects of one scene differ in colour, and each keeps to a column of its own. Of all (colour, shape, motion)
combinations one in eight is *held out*: it never occurs in training, and each scene of the test set has one.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

COLOURS = {
    "red": (0.92, 0.12, 0.12),
    "green": (0.10, 0.80, 0.15),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.90, 0.10),
    "purple": (0.62, 0.12, 0.92),
    "orange": (0.95, 0.50, 0.08),
    "cyan": (0.10, 0.88, 0.92),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = {"small": 0.20, "medium": 0.27, "large": 0.36}
"""Radius of the disc with the same area, in half frames."""
MOTIONS = ("left", "right", "up", "down", "orbit", "bounce", "grow", "spin")
BACKGROUNDS = {
    "black": (0.02, 0.02, 0.02),
    "gray": (0.30, 0.30, 0.30),
    "navy": (0.03, 0.05, 0.28),
    "brown": (0.28, 0.16, 0.06),
    "dark green": (0.02, 0.22, 0.08),
}
LIGHTS = {
    "bright": (1.0, 1.0),
    "dim": (0.65, 0.65),
    "left": (1.0, 0.65),
    "right": (0.65, 1.0),
}
"""Brightness at the left and at the right edge."""
ROUND = ("circle", "ring")
"""Shapes that look the same however they are turned."""

_VERBS = {
    "left": ("moves left", "slides to the left"),
    "right": ("moves right", "slides to the right"),
    "up": ("moves up", "rises"),
    "down": ("moves down", "sinks"),
    "orbit": ("moves in a circle", "orbits"),
    "bounce": ("bounces", "bounces up and down"),
    "grow": ("grows", "gets bigger"),
    "spin": ("spins", "turns around"),
}
_PLACES = {1: ("",), 2: ("on the left", "on the right"), 3: ("on the left", "in the middle", "on the right")}
_LIGHT_WORDS = {"bright": ("", "in bright light"), "dim": ("in dim light",)}
_LIGHT_WORDS |= {side: (f"lit from the {side}",) for side in ("left", "right")}
_HELD_OUT_OF = 8


@dataclass(frozen=True)
class SceneObject:
    """One object; its column in the frame follows from its place in the scene."""

    colour: str
    shape: str
    size: str
    motion: str

    @property
    def held_out(self) -> bool:
        """Whether this combination of colour, shape and motion is kept from training."""
        digest = hashlib.sha256(f"{self.colour} {self.shape} {self.motion}".encode()).digest()
        return digest[0] % _HELD_OUT_OF == 0


@dataclass(frozen=True)
class Scene:
    """What one clip shows; objects from left to right."""

    objects: tuple[SceneObject, ...]
    background: str
    light: str

    @property
    def held_out(self) -> bool:
        """Whether any of its objects is."""
        return any(item.held_out for item in self.objects)


def sample_scene(random_: random.Random, *, held_out: bool = False) -> Scene:
    """Draw a scene: for training without, for the test set with a held-out combination."""
    while True:
        count = random_.choices((1, 2, 3), weights=(4, 4, 2))[0]
        colours = random_.sample(list(COLOURS), count)
        scene = Scene(
            tuple(_sample_object(random_, colour, count) for colour in colours),
            random_.choice(list(BACKGROUNDS)),
            random_.choice(list(LIGHTS)),
        )
        if scene.held_out == held_out:
            return scene


def _sample_object(random_: random.Random, colour: str, count: int) -> SceneObject:
    shape, motion = random_.choice(SHAPES), random_.choice(MOTIONS)
    while shape in ROUND and motion == "spin":
        shape, motion = random_.choice(SHAPES), random_.choice(MOTIONS)
    return SceneObject(colour, shape, random_.choice(list(SIZES)[: 4 - count]), motion)


def describe(scene: Scene, random_: random.Random) -> str:
    """A caption; one of many that mean the same.

    >>> describe(scene, random.Random(0))
    'a small red star spins on the left and a medium blue ring rises on the right, on a gray background, in dim light'
    """
    *first, last = phrases(scene, random_)
    objects = f"{', '.join(first)} and {last}" if first else last
    light = random_.choice(_LIGHT_WORDS[scene.light])
    return ", ".join(part for part in (objects, f"on a {scene.background} background", light) if part)


def phrases(scene: Scene, random_: random.Random) -> list[str]:
    """What the caption says of each object; :func:`describe` draws the same words from the same state."""
    found = []
    for item, place in zip(scene.objects, _PLACES[len(scene.objects)], strict=True):
        verb = random_.choice(_VERBS[item.motion])
        found.append(" ".join(part for part in (f"a {item.size} {item.colour} {item.shape}", verb, place) if part))
    return found


def held_out_set(count: int, seed: int = 20260101) -> list[tuple[str, Scene]]:
    """Captions and scenes that are held out from training; always the same ones, whatever ``count`` is."""
    random_ = random.Random(seed)
    scenes = [sample_scene(random_, held_out=True) for _ in range(count)]
    return [(describe(scene, random.Random(f"{seed} {number}")), scene) for number, scene in enumerate(scenes)]
