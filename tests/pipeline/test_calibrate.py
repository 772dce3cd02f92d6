"""``fastvideo calibrate``: windows within an error budget, measured in a generation, and read back by another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastvideo
from fastvideo import SlidingTile, VideoGenerator
from fastvideo.backends.attention.sliding_tile import Tiling, windows
from fastvideo.backends.attention.sliding_tile.reference import sliding_tile_reference
from fastvideo.calibration import choose
from fastvideo.cli import main
from fastvideo.passes.measure_windows import MeasureWindows
from fastvideo.passes.pipelines import Target, default_pipeline
from fastvideo.passes.recognize_attention import RecognizeAttention
from tests.sliding_tile.video_dit import VideoDiT, inputs

SIZE = {"height": 48, "width": 80, "num_frames": 5, "num_inference_steps": 2, "seed": 3, "guidance_scale": 1.0}
WORDS = [word for name, value in SIZE.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def latents(folder: Path, **settings: object) -> torch.Tensor:
    with VideoGenerator.from_pretrained(folder, device="cpu", **settings) as generator:
        made = generator.generate_video("a cat", save_video=False, return_latents=True, progress=False, **SIZE)
    assert made.latents is not None
    return made.latents


@pytest.mark.parametrize(("budget", "cheap"), [("0.99", True), ("1e-9", False)])
def test_file_is_written_and_a_generation_follows_it(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], budget: str, cheap: bool
) -> None:
    file = tmp_path / "windows.json"
    words = ["calibrate", "--model", str(folder), "--prompt", "a cat", "--output", str(file), "--device", "cpu"]
    assert main([*words, *WORDS, "--budget", budget, "--tile", "1x1x2"]) == 0, capfd.readouterr().err
    out, _ = capfd.readouterr()
    assert out.startswith(f"{file}: 2 steps, ") and ("100.0% of all pairs remain" in out) == (not cheap)
    full = torch.tensor([2, 3, 3])  # tiles of the grid
    assert bool((windows.read(file).table == full).all()) == (not cheap)
    found = latents(folder, attention_backend=SlidingTile(tile=(1, 1, 2), config=str(file)))
    assert torch.allclose(found, latents(folder), atol=1e-4) == (not cheap)


@pytest.mark.parametrize("ranks", [1, 2])
@torch.no_grad()
def test_measured_errors_are_those_of_the_windows(ranks: int) -> None:
    torch.manual_seed(0)
    model, given = VideoDiT(layers=1).eval(), inputs((3, 4, 5), 6)
    tried = ((1, 1, 1), (3, 3, 3))
    measuring = MeasureWindows(options=SlidingTile(tile=(1, 2, 2)), windows=tried)
    passes = [
        added
        for step in default_pipeline(Target(ranks=ranks))
        for added in ([step, measuring] if isinstance(step, RecognizeAttention) else [step])
    ]
    compiled = fastvideo.compile(model, ranks, device="cpu", executor="simulated", passes=passes)
    torch.testing.assert_close(compiled(**given), model(**given))
    (errors,) = compiled.extra_outputs
    assert errors.shape == (4, 2)
    tiling, dims = Tiling((3, 4, 5), (1, 2, 2), 0, 66), (2, 3)
    q, k, v = operands(model, given)
    exact = F.scaled_dot_product_attention(q, k, v)
    for number, window in enumerate(tried):
        table = torch.tensor([window] * 4, dtype=torch.int32)
        found = sliding_tile_reference(q, k, v, table, None, None, tiling, False)
        wanted = ((found - exact).norm(dim=dims) / exact.norm(dim=dims))[0]
        torch.testing.assert_close(errors[:, number], wanted, rtol=1e-3, atol=1e-6)
    assert float(errors[:, 1].max()) < 1e-2 * float(errors[:, 0].min())  # the larger window spans the grid


def operands(model: VideoDiT, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What the one attention of an eager model reads."""
    seen: list[tuple[torch.Tensor, ...]] = []
    plain = F.scaled_dot_product_attention

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        seen.append((q, k, v))
        return plain(q, k, v, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        model(**given)
    return seen[0]


def test_cheapest_window_within_the_budget_is_chosen() -> None:
    tiling = Tiling((3, 4, 4), (1, 1, 1), 0, 48)
    candidates = ((1, 1, 1), (1, 3, 3), (3, 1, 1))
    errors = torch.tensor([[[[0.2, 0.01, 0.04], [0.2, 0.01, 0.2], [0.01, 0.01, 0.01], [0.2, 0.2, 0.2]]]])
    found = choose(errors, candidates, tiling, 0.05)
    assert found.windows.tolist() == [[[[3, 1, 1], [1, 3, 3], [1, 1, 1], [3, 4, 4]]]]
    densities = [3 / 48, 9 / 48, 1 / 48, 1.0]
    assert found.density == pytest.approx(sum(densities) / 4) and found.full == 0.25


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--budget", "0"], "budget=0.0; expected an error above 0"),
        (["--tile", "6x8"], "--tile '6x8' cannot be read"),
        (["--output", "no/such/folder/w.json"], "there is no folder"),
    ],
)
def test_wrong_options_are_refused(
    folder: Path, capfd: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["calibrate", "--model", str(folder), "--prompt", "x", *words]) == 2
    assert capfd.readouterr().err.startswith(f"error: {line}")
