"""``fastvideo bench``: how long a denoising step takes, as the plain module and compiled, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import DEBUG, PARALLEL, as_parallel


def bench(
    model: options.MODEL,
    shape: options.SHAPE = None,
    arg: options.ARG = None,
    num_gpus: Annotated[int | None, typer.Option(help="Ranks to run on; one if left out.")] = None,
    parallel: PARALLEL = None,
    dtype: options.DTYPE = "bfloat16",
    config: options.CONFIG = None,
    height: options.HEIGHT = None,
    width: options.WIDTH = None,
    num_frames: options.NUM_FRAMES = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; found if left out.")] = None,
    attention_backend: Annotated[str | None, typer.Option(help="Attention backend to use.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Format of linear layers: fp8 or int8.")] = None,
    passes: options.PASSES = None,
    invariant: options.INVARIANT = None,
    offload: options.OFFLOAD = "auto",
    max_memory: Annotated[str | None, typer.Option(help="What one device may give, such as 24GiB.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed, after the first two.")] = 5,
    plain: Annotated[bool, typer.Option(help="Time the plain module too, on one device.")] = True,
    json_file: options.JSON = None,
    debug: DEBUG = False,
) -> None:
    """Time a denoising step with random weights and latents: the plain module, and compiled."""
    import torch

    from ..entry import compile as compile_model
    from ..report.text import count
    from ..runtime.devices import resolve_device
    from ..step_timing import WARM_UPS, Row, difference, step_inputs, table, time_calls
    from .subject import build_subject

    pinned = as_parallel(parallel) if parallel is not None else None
    ranks = num_gpus if num_gpus is not None else pinned.num_ranks if pinned else 1
    place = resolve_device(device, ranks)
    video = {"height": height, "width": width, "num_frames": num_frames}
    subject = build_subject(model, video, shape, arg, dtype, config, invariant, materialize=True)
    module, name = subject.model, type(subject.model).__name__
    inputs = step_inputs(subject.inputs, subject.invariant, WARM_UPS + steps, place)
    home = "cpu" if offload == "blocks" else place
    compiled = compile_model(
        module.to(home),
        ranks,
        parallel=pinned,
        device=place,
        attention_backend=attention_backend,
        quantization=quantization,
        passes=passes,
        invariant=subject.invariant,
        offload=offload,
        max_memory=max_memory,
    )
    rows: list[Row] = []
    with compiled:
        reference = None
        if plain:
            module.to(place)
            times, reference = time_calls(lambda given: module(**given), inputs, place)
            rows.append(Row("plain module", times))
            module.to(home)
        times, output = time_calls(lambda given: compiled(**given), inputs, place)
        error = difference(output, reference) if reference is not None else None
        rows.append(Row(f"compiled, {count(ranks, 'rank')}", times, error))
    machine = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    data = {"model": name, "machine": machine, "torch": torch.__version__, "rows": [row.to_dict() for row in rows]}
    if json_file is not None and json_file != Path("-"):
        json_file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if json_file == Path("-"):
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(f"{name}, {dtype}, {machine}, torch {torch.__version__}, median of {count(steps, 'step')}\n")
    typer.echo(table(rows))
