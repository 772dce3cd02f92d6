"""Model families: plain data that says what a pipeline folder holds and which stages make a video of it.

A new family is one file with one :class:`Family` record, and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping

import fastvideo_ir as ir

from .cogvideox import COGVIDEOX, COGVIDEOX_I2V
from .family import Family, Picture, Preset
from .hunyuan import HUNYUAN_VIDEO, HUNYUAN_VIDEO_15
from .ltx import LTX_VIDEO
from .mochi import MOCHI
from .wan import WAN22_I2V, WAN22_T2V, WAN22_TI2V, WAN_I2V, WAN_T2V

FAMILIES: tuple[Family, ...] = (
    WAN_T2V,
    WAN_I2V,
    WAN22_T2V,
    WAN22_I2V,
    WAN22_TI2V,
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_15,
    COGVIDEOX,
    COGVIDEOX_I2V,
    LTX_VIDEO,
    MOCHI,
)

__all__ = ["FAMILIES", "Family", "Picture", "Preset", "select_family"]


def select_family(model_index: Mapping[str, object], source: str) -> Family:
    """The family of a pipeline, by its ``_class_name`` and the further entries that tell variants apart.

    Args:
        model_index: the parsed ``model_index.json``.
        source: folder or hub id, for error texts.

    Raises:
        PipelineLoadError: no family has this class, or only a variant of the class has one.
    """
    class_name = model_index.get("_class_name")
    same_class = [family for family in FAMILIES if family.pipeline_class == class_name]
    if not same_class:
        known = ", ".join(sorted({family.pipeline_class for family in FAMILIES}))
        raise ir.errors.PipelineLoadError(
            f"{source!r} is a {class_name!r} pipeline, for which there is no family",
            hint=f"load it with diffusers and pass it to fastvideo.compile(pipeline, num_gpus=…); "
            f"known pipeline classes: {known}",
        )
    for family in same_class:
        if not family.mismatches(model_index):
            return family
    reasons = "; ".join(f"{family.name} needs {family.mismatches(model_index)}" for family in same_class)
    raise ir.errors.PipelineLoadError(
        f"{source!r} is a variant of {class_name} for which there is no family", hint=reasons
    )
