"""``fastvideo.json``: the best settings of some weights, shipped beside ``model_index.json`` by those who made them.

{"sampling": {"num_inference_steps": 6, "guidance_scale": 1.0}, "flow_shift": 8.0}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import fastvideo_ir as ir

from . import safetensors_files
from .families import Preset
from .hub import SHIPPED

_ENTRIES = ("sampling", "flow_shift")


def with_shipped(preset: Preset, folder: Path) -> Preset:
    """The preset, with what the folder's ``fastvideo.json`` says in place of its own values.

    Args:
        preset: built in; its values name all sampling fields that there are.
        folder: of the pipeline.

    Raises:
        PipelineLoadError: the file cannot be read, or has an entry that means nothing.
    """
    file = folder / SHIPPED
    if not file.is_file():
        return preset
    content = safetensors_files.read_json(file)
    _refuse_unknown(file, content, _ENTRIES)
    sampling = content.get("sampling", {})
    if not isinstance(sampling, Mapping):
        raise ir.errors.PipelineLoadError(f"'sampling' in '{file}' is no mapping", hint="see docs/families.md")
    _refuse_unknown(file, sampling, preset.values)
    values = {**preset.values, **sampling}
    return Preset(preset.ids, values, content.get("flow_shift", preset.flow_shift), preset.when)


def _refuse_unknown(file: Path, found: Mapping[str, Any], known: Collection[str]) -> None:
    for name in found:
        if name not in known:
            reason = ir.errors.UnknownNameError(f"entry of '{file}'", name, known)
            raise ir.errors.PipelineLoadError(reason.message, hint=reason.hint)
