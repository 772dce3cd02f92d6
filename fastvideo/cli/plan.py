"""``fastvideo plan``: how ranks would share a model's work, and what that would cost; without weights and GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import DEBUG, PARALLEL, as_parallel


def plan(
    model: options.MODEL,
    shape: options.SHAPE = None,
    arg: options.ARG = None,
    num_gpus: Annotated[int | None, typer.Option(help="Ranks to plan for; one if left out.")] = None,
    parallel: PARALLEL = None,
    dtype: options.DTYPE = "bfloat16",
    hardware: Annotated[str, typer.Option(help="Device to model, such as h200, h100, a100, l40s.")] = "auto",
    config: options.CONFIG = None,
    height: options.HEIGHT = None,
    width: options.WIDTH = None,
    num_frames: options.NUM_FRAMES = None,
    attention_backend: Annotated[str, typer.Option(help="Attention backend to plan with.")] = "auto",
    passes: options.PASSES = None,
    invariant: options.INVARIANT = None,
    offload: options.OFFLOAD = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="What one device may give, such as 24GiB; else what the modelled one has.")
    ] = None,
    materialize: Annotated[
        bool, typer.Option(help="Random weights on the CPU, for models that read values of tensors.")
    ] = False,
    json_file: options.JSON = None,
    debug: DEBUG = False,
) -> None:
    """Print how ranks would share a model's work: time, memory, collectives. No weights, no GPUs."""
    from ..planning import plan as make_plan
    from .subject import build_subject

    pinned = as_parallel(parallel) if parallel is not None else None
    video = {"height": height, "width": width, "num_frames": num_frames}
    batch = pinned.dp * pinned.cfg if pinned is not None else 1
    subject = build_subject(model, video, shape, arg, dtype, config, invariant, materialize=materialize, batch=batch)
    report = make_plan(
        subject.model,
        subject.inputs,
        num_gpus,
        parallel=pinned,
        hardware=hardware,
        attention_backend=attention_backend,
        passes=passes,
        invariant=subject.invariant,
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
