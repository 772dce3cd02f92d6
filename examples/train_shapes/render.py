"""Scenes to clips: signed distances, anti-aliased, a batch at a time on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .scenes import BACKGROUNDS, COLOURS, LIGHTS, SHAPES, SIZES, Scene, SceneObject

NUM_FRAMES = 17
SIZE = 128
_COLUMNS = {1: (0.0,), 2: (-0.48, 0.48), 3: (-0.64, 0.0, 0.64)}
_TRAVEL = {1: 0.45, 2: 0.24, 3: 0.16}
"""Half the way that a moving object goes, in half frames."""
_SPIN = math.radians(150)
_AREAS = {
    "circle": math.pi,
    "square": 4.0,
    "triangle": 1.299,
    "star": 1.1226,
    "ring": 0.6975 * math.pi,
    "cross": 2.6194,
}
"""Of the unit shapes below; each is scaled to the area of a disc of its size."""


def render(scenes: Sequence[Scene], device: str | torch.device = "cpu", size: int = SIZE) -> Tensor:
    """Draw clips.

    Args:
        scenes: what to draw, one clip each.
        device: where.
        size: height and width in pixels.

    Returns:
        ``(scenes, 3, 17, size, size)``, float32 in [-1, 1].
    """
    tracks = torch.tensor([_tracks(scene) for scene in scenes], device=device)  # (scenes, 3 objects, frames, 4)
    kinds = torch.tensor([_per_object(scene, _shape_number, -1) for scene in scenes], device=device)
    colours = torch.tensor([_per_object(scene, _colour, (0.0, 0.0, 0.0)) for scene in scenes], device=device)
    background = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes], device=device)
    light = torch.tensor([LIGHTS[scene.light] for scene in scenes], device=device)

    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    y, x = axis[:, None], axis[None, :]
    clips = background[:, :, None, None, None].expand(-1, -1, NUM_FRAMES, size, size).clone()
    for number in range(tracks.shape[1]):
        cx, cy, radius, angle = (part[..., None, None] for part in tracks[:, number].unbind(-1))
        dx, dy = x - cx, y - cy
        u = (dx * angle.cos() + dy * angle.sin()) / radius
        v = (dy * angle.cos() - dx * angle.sin()) / radius
        distance = torch.full_like(u, torch.inf)  # where there is no such object
        for kind, shape in enumerate(SHAPES):
            chosen = kinds[:, number] == kind
            if chosen.any():
                distance[chosen] = _DISTANCES[shape](u[chosen], v[chosen])
        cover = (0.5 - distance * radius * size / 2).clamp(0, 1)[:, None]
        clips = clips + cover * (colours[:, number, :, None, None, None] - clips)
    ramp = light[:, :1] + (light[:, 1:] - light[:, :1]) * (x + 1) / 2
    return clips * ramp[:, None, None, None, :] * 2 - 1


def _per_object(scene: Scene, value: object, missing: object) -> list[object]:
    assert callable(value)
    return [value(item) for item in scene.objects] + [missing] * (3 - len(scene.objects))


def _shape_number(item: SceneObject) -> int:
    return SHAPES.index(item.shape)


def _colour(item: SceneObject) -> tuple[float, float, float]:
    return COLOURS[item.colour]


def _tracks(scene: Scene) -> list[list[tuple[float, float, float, float]]]:
    """Centre x and y, radius and angle of each object in each frame."""
    count = len(scene.objects)
    tracks = [
        [_pose(item, column, _TRAVEL[count], frame / (NUM_FRAMES - 1)) for frame in range(NUM_FRAMES)]
        for item, column in zip(scene.objects, _COLUMNS[count], strict=True)
    ]
    return tracks + [[(9.0, 9.0, 1e-3, 0.0)] * NUM_FRAMES] * (3 - count)


def _pose(item: SceneObject, column: float, travel: float, t: float) -> tuple[float, float, float, float]:
    radius = SIZES[item.size] * math.sqrt(math.pi / _AREAS[item.shape])
    along = travel * (2 * t - 1)
    turn = 2 * math.pi * t
    match item.motion:
        case "left":
            return column - along, 0.0, radius, 0.0
        case "right":
            return column + along, 0.0, radius, 0.0
        case "up":
            return column, -1.4 * along, radius, 0.0
        case "down":
            return column, 1.4 * along, radius, 0.0
        case "orbit":
            return column + 0.8 * travel * math.cos(turn), 0.8 * travel * math.sin(turn), radius, 0.0
        case "bounce":
            return column, 0.4 - 0.8 * abs(math.sin(turn)), radius, 0.0
        case "grow":
            return column, 0.0, radius * (0.55 + 0.6 * t), 0.0
        case "spin":
            return column, 0.0, radius, _SPIN * t
    raise ValueError(f"unknown motion {item.motion!r}")


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return (u**2 + v**2).sqrt() - 1


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u**2 + v**2).sqrt() - 0.775).abs() - 0.225


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 1


def _cross(u: Tensor, v: Tensor) -> Tensor:
    long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    return torch.maximum(long - 1, short - 0.4125)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, u.abs() * math.sin(math.pi / 3) - v * 0.5) - 0.5


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points at radius 1, notches at 0.382: the edges of a pentagram."""
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(u, -v) + sector / 2, sector) - sector / 2
    radius = (u**2 + v**2).sqrt()
    px, py = radius * angle.sin().abs(), radius * angle.cos()
    notch = math.pi / 5
    ex, ey = 0.382 * math.sin(notch), 0.382 * math.cos(notch) - 1  # edge from the point (0, 1) to the notch
    length = math.hypot(ex, ey)
    return (px * -ey + (py - 1) * ex) / length


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}
