"""The command line: ``fastvideo generate --model … --prompt … --num-gpus …``."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="fastvideo",
    help="Generate videos with diffusion transformers on one or many GPUs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keeps ``generate`` a command by name while it is the only one."""


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="Pipeline folder in Diffusers layout, or hub id.")],
    prompt: Annotated[str | None, typer.Option(help="What the video shows.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Text file that holds the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None,
    num_gpus: Annotated[int | None, typer.Option(help="GPUs for one video; on CPU, processes.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the file.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; 1 or less turns it off.")] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Flow shift of the scheduler.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn if left out.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the mp4, or its name.")] = Path("outputs"),
    device: Annotated[str | None, typer.Option(help="cuda or cpu; found if left out.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Dtype of all weights, such as bfloat16.")] = None,
    attention_backend: Annotated[str | None, typer.Option(help="Attention backend to use.")] = None,
    executor: Annotated[str, typer.Option(help="auto, local, simulated or mp.")] = "auto",
    passes: Annotated[str | None, typer.Option(help='Passes, such as "default,-pack-collectives".')] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar on a terminal.")] = True,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Generate one video from a prompt."""
    from .runtime.pipeline.output_file import check_output
    from .video_generator import VideoGenerator

    request: dict[str, Any] = {
        "prompt": prompt,
        "prompt_path": prompt_file,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "fps": fps,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }
    VideoGenerator.check_request(model, **request)  # before gigabytes of weights are loaded
    check_output(output)
    with VideoGenerator.from_pretrained(
        model,
        num_gpus=num_gpus,
        attention_backend=attention_backend,
        executor=executor,
        device=device,
        dtype=dtype,
        passes=passes,
        flow_shift=flow_shift,
    ) as generator:
        video = generator.generate_video(**request, output_path=output, progress=progress)
    if video.path is None:
        raise typer.Exit(1)  # why is in the log already
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in video.seconds.items() if seconds >= 0.05)
    typer.echo(f"{video.path}  (seed {video.seed}; {times})")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        The exit status: 0, 1 for a failure, 2 for a wrong request, 130 when interrupted. A failure is one
        line on stderr; ``--debug`` adds the traceback.
    """
    from fastvideo_ir import errors

    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        status = app(words, prog_name="fastvideo", standalone_mode=False)
        if status == 130:  # how the option parser passes Ctrl-C on
            return _report("interrupted", None, 130, debug=False)
        return status if isinstance(status, int) else 0
    except errors.FastVideoError as error:
        return _report(error.message, error.hint, 2 if isinstance(error, errors.InvalidArgumentError) else 1, debug)
    except typer.Abort:
        return _report("interrupted", None, 130, debug)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the option parser
            return _report(error.format_message(), "see `fastvideo generate --help`", 2, debug)
        hint = None if debug else "run again with --debug for the traceback"
        return _report(f"{type(error).__name__}: {error}", hint, 1, debug)


def _report(message: str, hint: str | None, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(f"{message} ({hint})".split() if hint else message.split())
    print(f"error: {line}", file=sys.stderr)
    return status
