"""The picture that a video starts from: read and checked before anything heavy."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image, ImageOps

import fastvideo_ir as ir

PictureInput = str | os.PathLike[str] | Image.Image | torch.Tensor
_HINT = "give a path, a PIL image, or a tensor (3, height, width): uint8, or float from 0 to 1"


def read_picture(image: PictureInput) -> Image.Image:
    """The picture as RGB, upright as its EXIF data says.

    Args:
        image: a path, a PIL image, or a tensor ``(3, height, width)`` or ``(1, 3, height, width)``, uint8 or float
            from 0 to 1.

    Raises:
        InvalidArgumentError: it cannot be read, or is no picture.
    """
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        try:
            with Image.open(path) as opened:
                opened.load()
                image = opened
        except FileNotFoundError as error:
            raise ir.errors.InvalidArgumentError(f"the image '{path}' does not exist", hint="check the path") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            # Pillow's decoders raise all of these for damaged files.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ir.errors.InvalidArgumentError(
                f"the image '{path}' cannot be read: {reason}", hint="open it in a viewer, or save it again as PNG"
            ) from error
    if not isinstance(image, Image.Image):
        raise ir.errors.InvalidArgumentError(f"image must be a picture, got a {type(image).__name__}", hint=_HINT)
    return ImageOps.exif_transpose(image).convert("RGB")


def _from_tensor(image: torch.Tensor) -> Image.Image:
    pixels = image.detach().cpu()
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.numel() == 0:
        raise ir.errors.InvalidArgumentError(f"image is a tensor of shape {tuple(image.shape)}", hint=_HINT)
    if pixels.is_floating_point():
        if not (torch.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ir.errors.InvalidArgumentError("image is a tensor with values that are not from 0 to 1", hint=_HINT)
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ir.errors.InvalidArgumentError(f"image is a tensor of {pixels.dtype}", hint=_HINT)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")
