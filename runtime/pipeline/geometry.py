"""From pixels and frames to latents, by the configs of the VAE and the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastvideo_ir as ir

from ...frontends.loading import PipelineFolder


@dataclass(frozen=True)
class LatentGeometry:
    """How a video is laid out in latents.

    Attributes:
        spatial_factor: pixels per latent, in height and in width.
        temporal_factor: frames per latent frame after the first, which stands for one frame.
        patch_size: latents per token in (time, height, width).
        pads_latent_frames: whether the last patch in time is filled up.
    """

    spatial_factor: int
    temporal_factor: int
    patch_size: tuple[int, int, int]
    pads_latent_frames: bool

    @classmethod
    def of(cls, pipeline: PipelineFolder) -> LatentGeometry:
        """Read it from the configs of a pipeline.

        Raises:
            PipelineLoadError: a config lacks a value, or has one that cannot be.
        """
        family = pipeline.family

        def number(value: str | int) -> int:
            found = pipeline.config_value(value) if isinstance(value, str) else value
            if not isinstance(found, int):
                raise ir.errors.PipelineLoadError(
                    f"{value} of '{pipeline.path}' is {found!r}, not a whole number", hint="its config.json is damaged"
                )
            return found

        return cls(
            spatial_factor=number(family.spatial_factor),
            temporal_factor=number(family.temporal_factor),
            patch_size=_patch_size(pipeline, pipeline.configs["transformer"]),
            pads_latent_frames=family.pads_latent_frames,
        )

    def latent_frames(self, num_frames: int) -> int:
        """How many latent frames stand for so many frames."""
        return (num_frames - 1) // self.temporal_factor + 1

    def latents_per_video(self, num_frames: int, height: int, width: int) -> int:
        """How many latents there are in time, height and width together."""
        return self.latent_frames(num_frames) * (height // self.spatial_factor) * (width // self.spatial_factor)

    @property
    def height_multiple(self) -> int:
        """Heights are multiples of this, in pixels."""
        return self.spatial_factor * self.patch_size[1]

    @property
    def width_multiple(self) -> int:
        """Widths are multiples of this, in pixels."""
        return self.spatial_factor * self.patch_size[2]

    def takes_frames(self, num_frames: int) -> bool:
        """Whether the VAE and the patches can take this many frames as they are."""
        latent_frames, rest = divmod(num_frames - 1, self.temporal_factor)
        fills_patches = self.pads_latent_frames or (latent_frames + 1) % self.patch_size[0] == 0
        return num_frames >= 1 and rest == 0 and fills_patches


def _patch_size(pipeline: PipelineFolder, config: dict[str, Any]) -> tuple[int, int, int]:
    """Denoisers give (time, height, width), or one number for height and width and another for time."""
    size, time = config.get("patch_size"), config.get("patch_size_t")
    if isinstance(size, list | tuple) and len(size) == 3 and all(isinstance(part, int) for part in size):
        return (size[0], size[1], size[2])
    if isinstance(size, int) and (time is None or isinstance(time, int)):
        return (time or 1, size, size)
    raise ir.errors.PipelineLoadError(
        f"transformer.patch_size of '{pipeline.path}' is {size!r}, not (time, height, width) or a number",
        hint="its config.json is damaged",
    )
