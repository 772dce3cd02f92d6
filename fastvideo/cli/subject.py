"""The model that ``plan`` and ``bench`` are about, and the inputs of one call of it, from their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Subject:
    """A model without trained weights.

    Attributes:
        model: in eval mode, on the meta device or with random weights on the CPU.
        inputs: keyword arguments of one call.
        invariant: names of those that stay the same over many calls.
    """

    model: nn.Module
    inputs: dict[str, Any]
    invariant: tuple[str, ...]


def build_subject(
    source: str,
    video: Mapping[str, int | None],
    shapes: Sequence[str] | None,
    arguments: Sequence[str] | None,
    dtype: str,
    config: Path | None,
    invariant: Sequence[str] | None,
    *,
    materialize: bool,
    batch: int = 1,
) -> Subject:
    """Build it.

    Args:
        source: as :func:`fastvideo.frontends.blank_models.build_blank` takes it.
        video: sizes of the video, of which inputs follow for pipelines of a known family.
        shapes, arguments: as :func:`fastvideo.blank_inputs.make_inputs` takes them.
        dtype: of the weights and of inputs without one.
        config: file of constructor arguments, or of replacements for ``config.json``.
        invariant: None: the texts of a pipeline.
        materialize: random weights on the CPU in place of none on meta.
        batch: samples of a pipeline's inputs.
    """
    from ..assembly import as_dtype
    from ..blank_inputs import denoiser_inputs, make_inputs, open_unweighted
    from ..config_files import read_mapping

    kind = as_dtype(dtype)
    given = {name: value for name, value in video.items() if value is not None}
    specified: dict[str, Any] = {}
    texts = tuple(invariant or ())
    if given or not (shapes or arguments):
        pipeline = open_unweighted(source, given)
        specified, texts = denoiser_inputs(pipeline, given, kind, batch), texts or pipeline.family.text
    from ..frontends.blank_models import build_blank

    blank = build_blank(source, read_mapping(config) if config else {}, kind, materialize=materialize)
    device = "cpu" if materialize else "meta"
    return Subject(blank, make_inputs(blank, specified, shapes or [], arguments or [], kind, device), texts)
