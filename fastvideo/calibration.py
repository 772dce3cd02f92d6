"""Windows for sliding tile attention, found by measurement: for each step, layer and head the cheapest within a budget.

One video is generated with full attention. At every step, every attention over the token grid also computes what each
candidate window would give in its place (pass ``measure-windows``); the error of a head is ``‖a − b‖ / ‖b‖`` of its
output. The cheapest candidate within the budget is kept, and full attention where none is. (The search of Zhang et al.,
"Fast Video Generation with Sliding Tile Attention", 2025, with an error bound in place of a fixed sparsity.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.errors import FastVideoError, InvalidArgumentError
from fastvideo_ir.graph import bind

from .backends.attention import SlidingTile
from .backends.attention.sliding_tile import Tiling, Triple, window_errors_op, windows
from .compiler import CompiledModel
from .passes.measure_windows import MeasureWindows
from .passes.pipelines import Target, default_pipeline
from .passes.recognize_attention import RecognizeAttention
from .runtime.devices import resolve_device
from .runtime.pipeline.steps import StepInfo
from .video_generator import VideoGenerator

CANDIDATES: tuple[Triple, ...] = (
    (1, 1, 1), (1, 3, 3), (3, 1, 1), (1, 5, 5), (3, 3, 3), (5, 1, 1), (3, 1, 5), (3, 5, 1), (5, 3, 3), (3, 3, 5),
    (3, 5, 3), (3, 5, 5), (5, 5, 5), (1, 9, 9), (9, 1, 1), (5, 7, 7),
)  # fmt: skip
"""Windows that are tried, in tiles: cubes, and such as stretch along time or within frames."""


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        windows: ``int32[steps, layers, heads, 3]``, in tiles.
        density: fraction of query-key pairs that remain, averaged over all of them.
        full: fraction of heads that no candidate served.
    """

    windows: Tensor
    density: float
    full: float


def calibrate(
    model: str | Path,
    prompt: str,
    output: str | Path,
    *,
    budget: float = 0.05,
    tile: Triple = (6, 8, 8),
    grid: Triple | None = None,
    candidates: tuple[Triple, ...] = CANDIDATES,
    num_gpus: int | None = None,
    device: str | None = None,
    loading: dict[str, Any] | None = None,
    **sampling: Any,
) -> Calibration:
    """Write the windows of a model, for as many steps as are generated, to a file that ``SLIDING_TILE_ATTN`` reads.

    Args:
        model: pipeline folder in Diffusers layout, or hub id.
        prompt: of the video that is measured.
        output: the JSON file.
        budget: largest error of a head's output, ``‖a − b‖ / ‖b‖``.
        tile: tokens of a tile in time, height and width.
        grid: tokens in time, height and width, for models that take packed tokens.
        candidates: windows that are tried, in tiles.
        num_gpus: ranks that work on it.
        device: None is CUDA where there is a GPU, otherwise the CPU.
        loading: further arguments of :meth:`VideoGenerator.from_pretrained`.
        sampling: fields of :class:`SamplingParam`, such as ``num_inference_steps`` and ``height``.

    Raises:
        InvalidArgumentError: the budget or an option cannot be, or the file cannot be written.
        BackendUnavailableError: the model has no attention over a token grid.
    """
    if not 0 < budget < 1:
        raise InvalidArgumentError(f"budget={budget!r}; expected an error above 0 and below 1, e.g. 0.05")
    if not Path(output).absolute().parent.is_dir():
        raise InvalidArgumentError(f"there is no folder {Path(output).absolute().parent} for the window file")
    options = SlidingTile(tile=tile, grid=grid)
    VideoGenerator.check_request(model, prompt=prompt, **sampling)
    kind = resolve_device(device, num_gpus or 1).type
    measuring = MeasureWindows(options=options, windows=candidates, device=kind)
    passes: list[ir.Pass] = []
    for step in default_pipeline(Target(ranks=num_gpus or 1, device=kind)):
        passes += [step, measuring] if isinstance(step, RecognizeAttention) else [step]
    with VideoGenerator.from_pretrained(
        model, num_gpus=num_gpus, device=device, passes=passes, **(loading or {})
    ) as generator:
        denoisers = generator.compiled_models
        errors: list[Tensor] = []

        def read(step: StepInfo) -> None:
            errors.append(_errors(denoisers))

        generator.generate_video(prompt, save_video=False, progress=False, on_step=read, **sampling)
        tiling = next(found for found in map(_tiling, denoisers) if found is not None)
    found = choose(torch.stack(errors), candidates, tiling, budget)
    windows.write(Path(output), found.windows)
    return found


def choose(errors: Tensor, candidates: tuple[Triple, ...], tiling: Tiling, budget: float) -> Calibration:
    """The cheapest window within the budget for each step, layer and head; full attention where there is none.

    Args:
        errors: ``[steps, layers, heads, candidates]``.
        candidates: windows, in tiles.
        tiling: the grid that they are windows of.
        budget: largest error.
    """
    full = torch.tensor(tiling.tiles, dtype=torch.int32)
    table = torch.tensor([*candidates, tiling.tiles], dtype=torch.int32).minimum(full)
    densities = torch.tensor([tiling.density(window[None]) for window in table])
    fits = torch.cat([errors <= budget, torch.ones_like(errors[..., :1], dtype=torch.bool)], -1)
    chosen = torch.where(fits, densities, torch.inf).argmin(-1)
    mean = float(densities[chosen].mean())
    return Calibration(table[chosen], mean, float((chosen == len(candidates)).double().mean()))


def _errors(denoisers: list[CompiledModel]) -> Tensor:
    """``[layers, heads, candidates]`` of the denoiser that has just worked; pipelines may have two."""
    for denoiser in denoisers:
        if denoiser.extra_outputs:
            measured = torch.stack([output.cpu() for output in denoiser.extra_outputs])
            denoiser.extra_outputs = []
            return measured
    raise FastVideoError("a denoising step has measured nothing: no compiled denoiser was called")


def _tiling(denoiser: CompiledModel) -> Tiling | None:
    """The tiles of a denoiser's first attention over the token grid."""
    for program in denoiser.programs:
        for node in program.nodes:
            if node.target is window_errors_op:
                arguments = bind(node)
                grid, tile = tuple(arguments["grid"]), tuple(arguments["tile"])
                return Tiling(grid, tile, arguments["start"], ir.tensor_type(arguments["q"]).shape[2])
    return None
