"""``fastvideo calibrate``: windows of sliding tile attention for a model, within an error budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DEBUG


def calibrate(
    model: Annotated[str, typer.Option(help="Pipeline folder in Diffusers layout, or hub id.")],
    prompt: Annotated[str, typer.Option(help="What the measured video shows.")],
    output: Annotated[Path, typer.Option(help="JSON file for the windows.")] = Path("windows.json"),
    budget: Annotated[float, typer.Option(help="Largest relative error of a head's output.")] = 0.05,
    tile: Annotated[str, typer.Option(help="Tokens of a tile in time, height and width.")] = "6x8x8",
    grid: Annotated[str | None, typer.Option(help="Token grid, such as 21x30x52, if the model hides it.")] = None,
    num_gpus: Annotated[int | None, typer.Option(help="GPUs that work on it; on CPU, processes.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; 1 or less turns it off.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn if left out.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; found if left out.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Dtype of all weights, such as bfloat16.")] = None,
    debug: DEBUG = False,
) -> None:
    """Find windows of SLIDING_TILE_ATTN for every step, layer and head of a model."""
    from ..calibration import calibrate as run

    sampling: dict[str, Any] = {
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }
    found = run(
        model,
        prompt,
        output,
        budget=budget,
        tile=_triple("tile", tile),
        grid=_triple("grid", grid) if grid is not None else None,
        num_gpus=num_gpus,
        device=device,
        loading={"dtype": dtype} if dtype is not None else None,
        **{name: value for name, value in sampling.items() if value is not None},
    )
    steps, layers, heads, _ = found.windows.shape
    typer.echo(
        f"{output}: {steps} steps, {layers} layers, {heads} heads; "
        f"{found.density:.1%} of all pairs remain, {found.full:.1%} of the heads need full attention"
    )


def _triple(name: str, text: str) -> tuple[int, int, int]:
    from fastvideo_ir.errors import InvalidArgumentError

    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InvalidArgumentError(f"--{name} {text!r} cannot be read; expected e.g. 6x8x8")
    return int(parts[0]), int(parts[1]), int(parts[2])
