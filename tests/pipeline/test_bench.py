"""``fastvideo bench``: plain and compiled, on the same weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastvideo import step_timing
from fastvideo.cli import main
from fastvideo.step_timing import WARM_UPS, step_inputs, time_calls
from fastvideo_ir.errors import InvalidArgumentError

from .test_plan_command import SHAPES, SMALL, WAN

CPU = torch.device("cpu")


def test_same_output_as_the_plain_module_on_two_ranks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, file = tmp_path / "small.json", tmp_path / "bench.json"
    config.write_text(json.dumps(SMALL | {"num_layers": 1}))
    words = ["bench", "--model", WAN, "--config", str(config), *SHAPES, "--dtype", "float32", "--device", "cpu"]
    words += ["--invariant", "encoder_hidden_states", "--num-gpus", "2", "--steps", "3"]
    assert main([*words, "--json", str(file)]) == 0, capfd.readouterr().err
    text = capfd.readouterr().out
    assert "WanTransformer3DModel, float32, CPU, " in text and "median of 3 steps" in text
    assert "plain module" in text and "compiled, 2 ranks" in text
    plain, compiled = json.loads(file.read_text())["rows"]
    assert len(plain["seconds"]) == len(compiled["seconds"]) == 3
    assert plain["difference"] is None and 0 <= compiled["difference"] < 1e-4
    assert compiled["first"] > plain["median"] > 0


def test_calls_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that every call moves on by its number of seconds: warm-ups count for nothing but the first call."""
    now = 0.0
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now)

    def call(given: Any) -> dict[str, Tensor]:
        nonlocal now
        now += given["takes"]
        return {"sample": torch.full((2,), given["takes"])}

    times, output = time_calls(call, [{"takes": takes} for takes in (50.0, 30.0, 4.0, 1.0, 2.0)], CPU)
    assert (times.first, times.seconds, times.median, times.spread) == (50, (4, 1, 2), 2, 3)
    assert output.tolist() == [50, 50] and times.peak_memory is None
    with pytest.raises(InvalidArgumentError, match="2 calls leave none to time"):
        time_calls(call, [{"takes": 1.0}] * WARM_UPS, CPU)
    with pytest.raises(InvalidArgumentError, match="returns a int without a tensor"):
        time_calls(lambda _: 1, [{}] * 3, CPU)


def test_steps_bring_new_latents_for_one_text() -> None:
    inputs = {"x": torch.zeros(3), "text": torch.zeros(3), "t": torch.ones(1, dtype=torch.int64), "scale": 2.0}
    first, second = step_inputs(inputs, ["text"], 2, CPU)
    assert first["text"] is second["text"] and first["scale"] == 2.0 and torch.equal(first["t"], inputs["t"])
    assert not torch.equal(first["x"], second["x"]) and first["x"].std() > 0.1


def test_steps_of_none_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", WAN, "--steps", "0"]) == 2
    assert "steps" in capfd.readouterr().err
