"""Frames to an mp4 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from .metadata import Metadata, as_text

_BT709 = 1  # the code for primaries and transfer in the H.264 specification, table E-3 and E-4


def write_mp4(file: Path, frames: np.ndarray, fps: float, metadata: Metadata) -> None:
    """Write H.264 in an mp4 container, of exactly the frames' size and number.

    Args:
        file: written over if it exists.
        frames: ``(frames, height, width, 3)``, uint8, RGB.
        fps: frames per second.
        metadata: kept in the comment; its ``prompt``, if there is one, is the title.

    Raises:
        OSError: the file cannot be written; av.FFmpegError: the encoder refuses.
    """
    _, height, width, _ = frames.shape
    # 4:2:0 halves both sides of the colour planes, so that odd sizes need 4:4:4.
    pixel_format = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    with av.open(str(file), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = as_text(metadata)
        container.metadata["title"] = str(metadata.get("prompt", ""))
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.options = {"crf": "17", "preset": "medium"}
        # Tagged, as players otherwise guess the colour matrix from the size.
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = _BT709, _BT709
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
