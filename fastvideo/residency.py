"""Where the modules of a pipeline have their weights, decided from configs and file headers before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fastvideo_ir.errors import CaptureError, DeviceMemoryError, InvalidArgumentError

from .blank_inputs import denoiser_inputs, make_inputs
from .frontends import loading
from .frontends.blank_models import build_blank
from .passes.analysis import USABLE
from .planning import plan_for
from .prompts import samples_pinned
from .report import Subject
from .report.text import size
from .runtime.pipeline.guidance import is_guided
from .runtime.turns import Turns
from .sampling_param import resolve_request
from .settings import Settings

SURELY_FITS = 1 / 4
"""Share of a device's memory up to which weights leave enough for anything else, so that nothing is predicted."""
LIKELY_FITS = 1 / 2
"""The same where nothing can be predicted, because the denoiser's inputs do not follow from its configs."""


@dataclass(frozen=True)
class Residency:
    """What stays on the devices.

    Attributes:
        turns: the modules take turns there; None: all stay.
        weights: bytes of each role's weights.
    """

    turns: Turns | None
    weights: Mapping[str, int]

    def settings_for(self, role: str, settings: Settings) -> Settings:
        """The settings of one module's programs, with the memory that the others leave it."""
        if not settings.memory or self.turns is not None:
            return settings
        others = sum(nbytes for other, nbytes in self.weights.items() if other != role)
        return replace(settings, memory=max(1, settings.memory - others))


def resolve_residency(
    pipeline: loading.PipelineFolder, settings: Settings, dtypes: Mapping[str, torch.dtype], *, own: bool = False
) -> Residency:
    """Decide from the predicted peak of the default request.

    Args:
        pipeline: opened; none of its weights is read.
        settings: of the denoisers: what is asked for, and how much memory there is.
        dtypes: per role that has weights.
        own: whether the denoiser is another one, of which nothing is known.

    Raises:
        DeviceMemoryError: the default request cannot fit; names settings with which it would.
    """
    denoiser = pipeline.family.compiled[0]
    weights = {
        role: pipeline.weight_bytes(role, dtype) for role, dtype in dtypes.items() if not (own and role == denoiser)
    }
    total, asked = sum(weights.values()), settings.offload
    found = None
    if settings.memory and total > SURELY_FITS * settings.memory and not own:
        found = _predicted(pipeline, denoiser, settings, dtypes[denoiser])
    others = total - weights.get(denoiser, 0)
    if found is not None:
        _refuse_if_too_large(pipeline, settings, found, others if asked == "none" else 0)
    if asked == "auto" and settings.memory:
        if found is not None:
            memory = found.planned.memory
            takes_turns = memory.host > 0 or others + memory.total > USABLE * settings.memory
        else:
            takes_turns = total > LIKELY_FITS * settings.memory
    else:
        takes_turns = asked in ("sequential", "blocks")
    return Residency(Turns() if takes_turns else None, weights)


def _predicted(pipeline: loading.PipelineFolder, role: str, settings: Settings, dtype: torch.dtype) -> Subject | None:
    """The plan of the denoiser on one rank, for the default request; None where its inputs cannot be told."""
    request = resolve_request(pipeline.preset.values, None, {"prompt": "of any kind"})
    samples = (2 if is_guided(pipeline.family, request) else 1) * samples_pinned(settings)
    blank = build_blank(str(pipeline.path / role), {}, dtype)
    try:
        inputs = make_inputs(blank, denoiser_inputs(pipeline, {}, dtype, samples), [], [], dtype, "meta")
    except InvalidArgumentError:
        return None
    # As the denoiser is compiled, but for kernels that would have to be measured.
    target = replace(settings.target, invariant=pipeline.family.text, fastest=None)
    try:
        return plan_for(target, blank, inputs, parallel=settings.parallel, passes=settings.passes)
    except CaptureError:  # the model may be one that has to see real values
        return None


def _refuse_if_too_large(pipeline: loading.PipelineFolder, settings: Settings, found: Subject, others: int) -> None:
    needed = found.planned.memory.total
    if needed + others <= settings.memory:
        return
    beside = f" beside {size(others)} of the other modules' weights" if others else ""
    raise DeviceMemoryError(
        f"a video of '{pipeline.source}' in its default size takes {size(needed)} per rank at its peak{beside}, "
        f"and {size(settings.memory)} are there",
        hint='it fits with offload="sequential"' if found.planned.fits else found.remedy,
    )
