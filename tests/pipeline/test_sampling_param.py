"""SamplingParam knows its fields and the model's defaults; keywords go before it, it goes before the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastvideo_ir as ir
from fastvideo.frontends.families import FAMILIES
from fastvideo.sampling_param import SamplingParam, resolve_request

DEFAULTS = FAMILIES[0].defaults


def test_defaults_of_the_model(folder: Path) -> None:
    params = SamplingParam(folder, num_inference_steps=30, guidance_scale=7.5, width=1024, height=576)
    assert (params.num_inference_steps, params.guidance_scale) == (30, 7.5)
    assert (params.width, params.height) == (1024, 576)
    assert (params.num_frames, params.fps, params.max_sequence_length) == (81, 16, 512)
    assert params.negative_prompt is not None and params.negative_prompt.startswith("色调艳丽")
    assert params.seed is None and params.prompt is None


def test_without_a_model_nothing_is_decided() -> None:
    assert SamplingParam().given() == {}
    assert SamplingParam(seed=3).given() == {"seed": 3}


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ir.errors.UnknownNameError, match="unknown sampling parameter 'num_frame'") as caught:
        SamplingParam(num_frame=17)
    assert caught.value.hint == "did you mean 'num_frames'?"
    params = SamplingParam()
    with pytest.raises(ir.errors.UnknownNameError, match="did you mean 'guidance_scale'"):
        params.guidence_scale = 3.0  # type: ignore[attr-defined]
    params.guidance_scale = 3.0
    assert params.given() == {"guidance_scale": 3.0}


def test_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ir.errors.PipelineLoadError, match=r"it has no model_index\.json"):
        SamplingParam(tmp_path)


def test_precedence() -> None:
    params = SamplingParam(prompt="from params", height=64, width=64, seed=1)
    request = resolve_request(DEFAULTS, params, {"prompt": "from keyword", "height": 32, "width": None})
    assert (request.prompt, request.height, request.width, request.seed) == ("from keyword", 32, 64, 1)
    assert (request.num_frames, request.guidance_scale) == (81, 5.0)


def test_prompt_is_needed() -> None:
    with pytest.raises(ir.errors.InvalidArgumentError, match="no prompt was given"):
        resolve_request(DEFAULTS, SamplingParam(seed=1), {"prompt": None})


def test_something_else_as_sampling_param() -> None:
    with pytest.raises(ir.errors.InvalidArgumentError, match="sampling_param must be a SamplingParam, got a dict"):
        resolve_request(DEFAULTS, {"seed": 1}, {"prompt": "a cat"})  # type: ignore[arg-type]


def test_seed_is_drawn() -> None:
    seeds = {resolve_request(DEFAULTS, None, {"prompt": "a cat"}).seed for _ in range(5)}
    assert len(seeds) > 1 and all(0 <= seed < 2**31 for seed in seeds)
