"""A request that cannot be served is refused by name, with the nearest values, and before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.runtime.pipeline.validate import validate_request

from .small_request import small_request

REFUSALS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": ""}, "the prompt is empty", "say in words what the video shows"),
    ({"prompt": " \n"}, "the prompt is empty", "say in words what the video shows"),
    (
        {"prompt": ["a", "b"]},
        "the prompt must be one text, got ['a', 'b']",
        "say in words what the video shows, or give a list of texts",
    ),
    (
        {"prompt": "a \ud800"},
        "the prompt holds half a character at position 2, got 'a \\ud800'",
        "decode it anew from where it comes from",
    ),
    (
        {"height": 481},
        "height must be a multiple of 16 pixels for this VAE and transformer, got 481",
        "the nearest values are 480 or 496",
    ),
    (
        {"width": 8},
        "width must be a multiple of 16 pixels for this VAE and transformer, got 8",
        "the nearest value is 16",
    ),
    ({"height": 0}, "height must be an integer of at least 1, got 0", None),
    ({"width": 480.0}, "width must be an integer of at least 1, got 480.0", None),
    (
        {"num_frames": 80},
        "num_frames must be 1 more than a multiple of 4 for this VAE, got 80",
        "the nearest values are 77 or 81",
    ),
    (
        {"num_frames": 2},
        "num_frames must be 1 more than a multiple of 4 for this VAE, got 2",
        "the nearest values are 1 or 5",
    ),
    (
        {"width": 2064},
        "width=2064 is more than this transformer has positions for, which is 128 tokens along each dimension",
        "width may be 2048 at most",
    ),
    (
        {"num_frames": 513},
        "num_frames=513 is more than this transformer has positions for, which is 128 tokens along each dimension",
        "num_frames may be 509 at most",
    ),
    ({"num_frames": 0}, "num_frames must be an integer of at least 1, got 0", None),
    ({"num_inference_steps": 0}, "num_inference_steps must be an integer from 1 to 1000, got 0", None),
    ({"num_inference_steps": 1001}, "num_inference_steps must be an integer from 1 to 1000, got 1001", None),
    ({"num_inference_steps": True}, "num_inference_steps must be an integer from 1 to 1000, got True", None),
    ({"seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1", None),
    ({"max_sequence_length": 513}, "max_sequence_length must be an integer from 1 to 512, got 513", None),
    (
        {"guidance_scale": -0.5},
        "guidance_scale must be a number from 0 to 100, got -0.5",
        "1 or less turns guidance off",
    ),
    (
        {"guidance_scale": float("nan")},
        "guidance_scale must be a number from 0 to 100, got nan",
        "1 or less turns guidance off",
    ),
    ({"fps": 0}, "fps must be a number from 1 to 240, got 0", "it is the frames per second of the file"),
    ({"negative_prompt": 3}, "negative_prompt must be text, got 3", '"" means none'),
]


@pytest.mark.parametrize(("changes", "message", "hint"), REFUSALS, ids=[repr(case[0]) for case in REFUSALS])
def test_refusals(opened: loading.PipelineFolder, changes: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ir.errors.InvalidArgumentError) as caught:
        validate_request(small_request(**changes), opened)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_frames": 1},
        {"num_frames": 81, "height": 480, "width": 832},
        {"seed": 0},
        {"guidance_scale": 0},
        {"fps": 23.976},
        {"num_inference_steps": 1000},
        {"prompt": "走"},
    ],
    ids=repr,
)
def test_good_requests_pass(opened: loading.PipelineFolder, changes: dict[str, Any]) -> None:
    validate_request(small_request(**changes), opened)
