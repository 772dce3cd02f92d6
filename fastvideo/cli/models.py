"""``fastvideo models``: the families that can be generated with, their ids and their defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DEBUG

if TYPE_CHECKING:
    from ..frontends.families import Family


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all defaults.")] = False,
    debug: DEBUG = False,
) -> None:
    """List the model families, the ids that they are known under, and their defaults."""
    entries = known_models()
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    from ..report.text import aligned

    rows = [("id", "family", "size", "frames", "fps", "steps", "guidance", "flow shift", "picture")]
    for entry in entries:
        d = entry["defaults"]
        size = f"{d.get('width')}×{d.get('height')}"
        numbers = [f"{d.get(name, '')}" for name in ("num_frames", "fps", "num_inference_steps")]
        guidance = ", ".join(str(d[name]) for name in ("guidance_scale", "guidance_scale_2") if name in d)
        shift = entry["flow_shift"] or "its own"
        picture = "needed" if entry["needs_picture"] else "may be given" if entry["takes_picture"] else ""
        rows.append((entry["id"] or "(any)", entry["family"], size, *numbers, guidance, str(shift), picture))
    typer.echo("\n".join(aligned(rows)))
    built_in = " and ".join(entry["id"] for entry in entries if entry["built_in"])
    typer.echo(f"\n{built_in} comes with the package; the others are downloaded from the hub when they are first used.")
    typer.echo("Two guidance scales are those of two denoisers; a flow shift of its own is the scheduler config's.")
    typer.echo("A folder in Diffusers layout of the same pipeline class works as well as a hub id.")


def known_models() -> list[dict[str, Any]]:
    """One entry per id: family, pipeline class and defaults; first those that come with the package."""
    from ..frontends import hub, loading
    from ..frontends.families import FAMILIES

    shipped = [
        _entry(model_id, loading.read_family(model_id), loading.read_defaults(model_id), None, built_in=True)
        for model_id in hub.built_in()
    ]
    known = [
        _entry(model_id, family, preset.values, preset.flow_shift, built_in=False)
        for family in FAMILIES
        for model_id in family.ids or (None,)
        for preset in (family.preset_for(model_id),)
    ]
    return shipped + known


def _entry(
    model_id: str | None, family: Family, defaults: Mapping[str, Any], flow_shift: float | None, *, built_in: bool
) -> dict[str, Any]:
    return {
        "id": model_id,
        "family": family.name,
        "pipeline_class": family.pipeline_class,
        "takes_picture": family.picture is not None,
        "needs_picture": family.picture is not None and family.picture.required,
        "built_in": built_in,
        "flow_shift": flow_shift,
        "defaults": dict(defaults),
    }
