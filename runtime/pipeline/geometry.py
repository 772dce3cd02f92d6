"""From pixels and frames to latents, by the configs of the VAE and the denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import fastvideo_ir as ir

from ...frontends.loading import PipelineFolder


@dataclass(frozen=True)
class LatentGeometry:
    """How a video is laid out in latents.

    Attributes:
        channels: channels of the latents.
        spatial_factor: pixels per latent, in height and in width.
        temporal_factor: frames per latent frame after the first, which stands for one frame.
        patch_size: latents per token in (time, height, width).
    """

    channels: int
    spatial_factor: int
    temporal_factor: int
    patch_size: tuple[int, int, int]

    @classmethod
    def of(cls, pipeline: PipelineFolder) -> LatentGeometry:
        """Read it from the configs of a pipeline.

        Raises:
            PipelineLoadError: a config lacks a value, or has one that cannot be.
        """
        family = pipeline.family
        patch_size = pipeline.config_value(family.patch_size)
        if not (isinstance(patch_size, list | tuple) and len(patch_size) == 3):
            raise ir.errors.PipelineLoadError(
                f"{family.patch_size} of '{pipeline.path}' is {patch_size!r}, not (time, height, width)",
                hint="its config.json is damaged",
            )
        time, height, width = patch_size
        return cls(
            channels=pipeline.config_value(family.latent_channels),
            spatial_factor=pipeline.config_value(family.spatial_factor),
            temporal_factor=pipeline.config_value(family.temporal_factor),
            patch_size=(time, height, width),
        )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """``(1, channels, latent frames, latent height, latent width)`` of one video."""
        frames = (num_frames - 1) // self.temporal_factor + 1
        return (1, self.channels, frames, height // self.spatial_factor, width // self.spatial_factor)

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
        return num_frames >= 1 and rest == 0 and (latent_frames + 1) % self.patch_size[0] == 0
