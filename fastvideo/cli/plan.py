"""``fastvideo plan``: how ranks would share a model's work, and what that would cost; without weights and GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DEBUG, PARALLEL, as_parallel


def plan(
    model: Annotated[
        str,
        typer.Option(help="Folder or config.json of a model, pipeline folder or hub id, or package.module:Class."),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(help="An input: name=sizes, with a dtype if need be, as in timestep=1:int64. Repeat it."),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(help="An input that is no tensor: name=JSON, as in num_frames=16. Repeat it."),
    ] = None,
    num_gpus: Annotated[int | None, typer.Option(help="Ranks to plan for; one if left out.")] = None,
    parallel: PARALLEL = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the weights and of inputs without one.")] = "bfloat16",
    hardware: Annotated[str, typer.Option(help="Device to model, such as h200, h100, a100, l40s.")] = "auto",
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with constructor arguments, or replacements for config.json.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Height of the video, for pipelines of a known family.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the video, likewise.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Number of frames, likewise.")] = None,
    attention_backend: Annotated[str, typer.Option(help="Attention backend to plan with.")] = "auto",
    passes: Annotated[str | None, typer.Option(help='Passes, such as "default,-pack-collectives".')] = None,
    invariant: Annotated[
        list[str] | None, typer.Option(help="An argument that stays the same over many calls. Repeat it.")
    ] = None,
    offload: Annotated[str, typer.Option(help="Where weights are: auto, none, or blocks for the host.")] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="What one device may give, such as 24GiB; else what the modelled one has.")
    ] = None,
    materialize: Annotated[
        bool, typer.Option(help="Random weights on the CPU, for models that read values of tensors.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the plan as JSON; - prints it instead of text."),
    ] = None,
    debug: DEBUG = False,
) -> None:
    """Print how ranks would share a model's work: time, memory, collectives. No weights, no GPUs."""
    from ..assembly import as_dtype
    from ..blank_inputs import denoiser_inputs, make_inputs, open_unweighted
    from ..config_files import read_mapping
    from ..planning import plan as make_plan

    pinned = as_parallel(parallel) if parallel is not None else None
    kind = as_dtype(dtype)
    video = {"height": height, "width": width, "num_frames": num_frames}
    given = {name: value for name, value in video.items() if value is not None}
    specified: dict[str, Any] = {}
    texts = tuple(invariant or ())
    if given or not (shape or arg):
        pipeline = open_unweighted(model, given)
        specified, texts = denoiser_inputs(pipeline, given, kind), texts or pipeline.family.text
    from ..frontends.blank_models import build_blank

    blank = build_blank(model, read_mapping(config) if config else {}, kind, materialize=materialize)
    inputs = make_inputs(blank, specified, shape or [], arg or [], kind, "cpu" if materialize else "meta")
    report = make_plan(
        blank,
        inputs,
        num_gpus,
        parallel=pinned,
        hardware=hardware,
        attention_backend=attention_backend,
        passes=passes,
        invariant=texts,
        offload=offload,
        max_memory=max_memory,
    )
    data = json.dumps(report.to_dict(), indent=2)
    if json_file == Path("-"):
        typer.echo(data)
        return
    if json_file is not None:
        json_file.write_text(data + "\n", encoding="utf-8")
    typer.echo(str(report))
