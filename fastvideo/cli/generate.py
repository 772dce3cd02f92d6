"""``fastvideo generate``: a video from each prompt, or from each line of a file."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DEBUG, PARALLEL, as_parallel

SHORT = {"steps": "num_inference_steps"}
"""Second names of options."""
OWN = {"model", "prompt_file", "lora", "output", "output_format", "progress"}
"""Options that are no arguments of the generator; entries of a config file like all the others."""


def generate(
    model: Annotated[str | None, typer.Option(help="Pipeline folder in Diffusers layout, or hub id.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What the video shows; each of several makes one.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Text file with a prompt on each line.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture that the video starts from.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with any of these options; the command line goes before it.")
    ] = None,
    num_gpus: Annotated[int | None, typer.Option(help="GPUs for one video; on CPU, processes.")] = None,
    parallel: PARALLEL = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the file.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; 1 or less turns it off.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:SCALE]", help="LoRA, a safetensors file or hub id; several add up."),
    ] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Flow shift of the scheduler.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn if left out.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the file, or its name; 'outputs' if left out.")
    ] = None,
    output_format: Annotated[str | None, typer.Option(help="mp4, gif, or png for a folder of frames.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; found if left out.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Dtype of all weights, such as bfloat16.")] = None,
    attention_backend: Annotated[str | None, typer.Option(help="Attention backend to use.")] = None,
    offload: Annotated[
        str | None, typer.Option(help="Where unused weights are: auto, none, sequential, or blocks.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="What one device may give, such as 24GiB.")] = None,
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="Replay calls on one GPU as CUDA graphs; where that is faster if left out.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="auto, local, simulated or mp.")] = None,
    quantization: Annotated[str | None, typer.Option(help="8-bit linear layers: fp8 or int8; not exact.")] = None,
    cache: Annotated[str | None, typer.Option(help="Leave blocks out: first-block:0.1; not exact.")] = None,
    compile_encoders: Annotated[bool | None, typer.Option(help="Text and image encoders on the ranks too.")] = None,
    compile_vae: Annotated[bool | None, typer.Option(help="The VAE decodes on the ranks too.")] = None,
    passes: Annotated[str | None, typer.Option(help='Passes, such as "default,-pack-collectives".')] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a progress bar on a terminal.")] = None,
    debug: DEBUG = False,
) -> None:
    """Generate a video from each prompt, or from each line of a file."""
    options = {k: v for k, v in locals().items() if k not in ("config", "debug") and v is not None}

    from fastvideo_ir.errors import InvalidArgumentError

    from ..loras import check_lora
    from ..runtime.pipeline.output_file import check_output
    from ..sampling_param import SamplingParam
    from ..video_generator import VideoGenerator
    from .config_file import read_config

    loading = set(inspect.signature(VideoGenerator.from_pretrained).parameters) - {"path", "unknown"}
    sampling = {field.name for field in fields(SamplingParam)}
    if config is not None:
        options = {**read_config(config, loading | sampling | OWN, SHORT), **options}
    if "model" not in options:
        raise InvalidArgumentError(
            "no model was given", hint="name a pipeline folder or hub id with --model, or in the config file"
        )
    if options.get("parallel") is not None:
        options["parallel"] = as_parallel(options["parallel"])
    model = str(options["model"])
    request = {name: value for name, value in options.items() if name in sampling}
    if isinstance(request.get("prompt"), list) and len(request["prompt"]) == 1:
        [request["prompt"]] = request["prompt"]
    if "prompt_file" in options:
        request["prompt_path"] = options["prompt_file"]
    place = Path(options.get("output", "outputs"))
    VideoGenerator.check_request(model, **request)  # before gigabytes of weights are loaded
    loras = [_lora_and_scale(text) for text in _as_list(options.get("lora"))]
    for source, scale in loras:
        check_lora(model, source, scale)
    check_output(place, options.get("output_format"), options.get("num_frames"))
    settings: dict[str, Any] = {name: value for name, value in options.items() if name in loading}
    with VideoGenerator.from_pretrained(model, **settings) as generator:
        for source, scale in loras:
            generator.load_lora(source, scale=scale)
        made = generator.generate_video(
            **request,
            output_path=place,
            output_format=options.get("output_format"),
            progress=options.get("progress", True),
        )
    videos = made if isinstance(made, list) else [made]
    for video in videos:
        if video.path is not None:
            times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in video.seconds.items() if seconds >= 0.05)
            typer.echo(f"{video.path}  (seed {video.seed}; {times})")
    if any(video.path is None for video in videos):
        raise typer.Exit(1)  # why is in the log already


def _as_list(value: Any) -> list[str]:
    """Entries of a config file may be one text or several."""
    return [] if value is None else [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _lora_and_scale(text: str) -> tuple[str, float]:
    """The two parts of ``PATH[:SCALE]``."""
    source, _, scale = text.rpartition(":")
    try:
        return (source, float(scale)) if source else (text, 1.0)
    except ValueError:  # a colon in the path
        return text, 1.0
