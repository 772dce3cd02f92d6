"""What a clip shows, found in its pixels: colours, shapes and motions.

Objects are brighter than every background. Their pixels are told apart by hue, since objects of one scene differ in
colour; a shape is the template that overlaps best, however it is turned; a motion follows from the tracks of centre,
area and angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from .render import _DISTANCES
from .scenes import COLOURS, ROUND, SHAPES, SIZES, Scene

_BRIGHT = 0.42
"""Largest channel that a background does not reach under any light, and an object does under all."""
_SMALLEST = 0.5 * math.pi * (0.55 * min(SIZES.values())) ** 2 / 4
"""Of a frame, below which a colour is taken for noise."""
_GRID = 40
_EXTENT = 1.9
"""Templates cover this many radii of the disc with their area, each way."""
_STEP = math.radians(6)
_PERIOD = {"square": 4, "triangle": 3, "star": 5, "cross": 4, "circle": 0, "ring": 0}


@dataclass(frozen=True)
class Found:
    """One object that was found."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Score:
    """How a clip compares with what was asked for.

    Attributes:
        looks: the right number of objects, each with the right colour and shape.
        motion: each object that was asked for is there and moves as it should.
    """

    looks: bool
    motion: bool


def detect(frames: np.ndarray) -> list[Found]:
    """The objects of a clip.

    Args:
        frames: ``(frames, height, width, 3)``, uint8, RGB.
    """
    video = frames.astype(np.float32) / 255
    value = video.max(-1)
    hue = video / np.maximum(value, 1e-3)[..., None]
    names = list(COLOURS)
    palette = np.array([np.array(colour) / max(colour) for colour in COLOURS.values()], dtype=np.float32)
    nearest = ((hue[..., None, :] - palette) ** 2).sum(-1).argmin(-1)
    labels = np.where(value > _BRIGHT, nearest, -1)
    found = []
    for number, name in enumerate(names):
        masks = labels == number
        areas = masks.mean((1, 2))
        if np.median(areas) >= _SMALLEST:
            found.append(_describe(name, masks, areas))
    return found


def score(frames: np.ndarray, scene: Scene) -> Score:
    """Compare a clip with the scene that its caption describes."""
    found = detect(frames)
    looks = {(item.colour, item.shape) for item in found} == {(item.colour, item.shape) for item in scene.objects}
    motions = {item.colour: item.motion for item in found}
    return Score(
        looks and len(found) == len(scene.objects),
        all(motions.get(item.colour) == item.motion for item in scene.objects),
    )


def _describe(colour: str, masks: np.ndarray, areas: np.ndarray) -> Found:
    seen = [number for number in range(len(masks)) if areas[number] >= _SMALLEST / 2]
    overlaps = np.stack([_overlaps(masks[number]) for number in seen])  # (frames, shapes, angles)
    shape = SHAPES[int(overlaps.max(-1).mean(0).argmax())]
    angles = overlaps[:, SHAPES.index(shape)].argmax(-1) * _STEP
    centres = np.stack([_centre(masks[number]) for number in seen])
    return Found(colour, shape, _motion(shape, centres, areas[seen], angles))


def _centre(mask: np.ndarray) -> np.ndarray:
    """x and y in half frames."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) / mask.shape[-1] * 2 - 1


def _motion(shape: str, centres: np.ndarray, areas: np.ndarray, angles: np.ndarray) -> str:
    size = math.sqrt(areas.max() * 4 / math.pi)
    x, y = centres.T
    width, height = np.ptp(x), np.ptp(y)
    edge = max(len(x) // 4, 1)
    growth = areas[-edge:].mean() / areas[:edge].mean()
    small = 0.12 + 0.1 * size
    if max(width, height) < small:
        if growth > 1.6:
            return "grow"
        return "spin" if shape not in ROUND and _turned(shape, angles) > math.radians(50) else "none"
    if min(width, height) > 0.5 * max(width, height):
        return "orbit"
    along, net = (x, x[-1] - x[0]) if width > height else (y, y[-1] - y[0])
    if abs(net) > 0.6 * np.ptp(along):
        return {True: ("right", "left"), False: ("down", "up")}[bool(width > height)][int(net < 0)]
    return "bounce" if height > width else "none"


def _turned(shape: str, angles: np.ndarray) -> float:
    """The whole turn, with the shape's symmetry undone."""
    period = 2 * math.pi / _PERIOD[shape]
    steps = (np.diff(angles) + period / 2) % period - period / 2
    return abs(float(steps.sum()))


def _overlaps(mask: np.ndarray) -> np.ndarray:
    """Intersection over union with each template at each angle, ``(shapes, angles)``."""
    rows, columns = np.nonzero(mask)
    radius = math.sqrt(len(rows) / math.pi)
    axis = (np.arange(_GRID) + 0.5) / _GRID * 2 * _EXTENT - _EXTENT
    take_y = np.round(rows.mean() + axis * radius).astype(int)
    take_x = np.round(columns.mean() + axis * radius).astype(int)
    inside_y, inside_x = (take_y >= 0) & (take_y < mask.shape[0]), (take_x >= 0) & (take_x < mask.shape[1])
    patch = mask[np.ix_(take_y.clip(0, mask.shape[0] - 1), take_x.clip(0, mask.shape[1] - 1))]
    patch = (patch & inside_y[:, None] & inside_x[None, :]).ravel().astype(np.float32)
    templates = _templates()
    both = templates @ patch
    return both / (templates.sum(-1) + patch.sum() - both)


@cache
def _templates() -> np.ndarray:
    """``(shapes, angles, pixels)``, of unit area's radius and centred at the centre of mass."""
    fine = (torch.arange(400) + 0.5) / 400 * 4 - 2
    axis = (torch.arange(_GRID) + 0.5) / _GRID * 2 * _EXTENT - _EXTENT
    templates = []
    for shape in SHAPES:
        inside = _DISTANCES[shape](fine[None, :].expand(400, -1), fine[:, None].expand(-1, 400)) < 0
        radius = math.sqrt(float(inside.float().mean()) * 16 / math.pi)
        middle = float(fine[inside.nonzero()[:, 0]].mean())
        for number in range(round(2 * math.pi / _STEP)):
            angle = torch.tensor(number * _STEP)
            u = (axis[None, :] * angle.cos() + axis[:, None] * angle.sin()) * radius
            v = (axis[:, None] * angle.cos() - axis[None, :] * angle.sin()) * radius + middle
            templates.append((_DISTANCES[shape](u, v) < 0).float().flatten())
    return torch.stack(templates).view(len(SHAPES), -1, _GRID**2).numpy()
