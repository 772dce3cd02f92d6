"""Modules of a pipeline take turns on a device that cannot hold them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch

import fastvideo
import fastvideo_ir as ir
from fastvideo.assembly import resolve_dtypes
from fastvideo.frontends import loading, modules
from fastvideo.passes.analysis.live_storages import LiveStorages
from fastvideo.residency import resolve_residency
from fastvideo.settings import resolve_settings
from fastvideo_ir.errors import DeviceMemoryError
from fastvideo_ir.fetching import kept_on_host

from .small_request import SMALL
from .test_parity import distance, reference_latents
from .test_video_generator import Components, generate, make

if TYPE_CHECKING:
    from fastvideo import VideoGenerator

Run = tuple[torch.Tensor, np.ndarray, int]


def brief(generator: VideoGenerator) -> Any:
    return generate(generator, num_frames=1, num_inference_steps=2, return_frames=True)


def measured(folder: Path, **options: Any) -> Run:
    """Latents and frames of a second generation, and the most bytes that it has made and kept at once."""
    with make(folder, compile_encoders=True, **options) as generator:
        brief(generator)
        with LiveStorages([]) as live:
            video = brief(generator)
        return video.latents, video.frames, live.peak


@pytest.fixture(scope="module")
def resident(folder: Path) -> Run:
    return measured(folder, offload="none")


def weights_of(folder: Path) -> dict[str, int]:
    opened = loading.open_pipeline(folder)
    return {role: opened.weight_bytes(role, torch.float32) for role in ("text_encoder", "transformer", "vae")}


@pytest.mark.parametrize("offload", ["sequential", "blocks"])
def test_same_bits_with_the_weights_of_one_module_at_a_time(folder: Path, resident: Run, offload: str) -> None:
    latents, frames, peak = measured(folder, offload=offload)
    assert torch.equal(latents, resident[0]) and np.array_equal(frames, resident[1])
    weights = weights_of(folder)
    largest, all_of_them = max(weights.values()), sum(weights.values())
    assert largest < 0.7 * all_of_them, "one module is nearly all: taking turns would save nothing"
    assert peak - resident[2] <= 1.05 * largest
    assert peak > weights["vae"], "the decoder's weights are not where it runs"


def test_models_on_ranks_take_turns_and_fetch_their_pieces(folder: Path, resident: Run) -> None:
    with make(folder, num_gpus=2, offload="blocks", compile_vae=True) as generator:
        first, second = (brief(generator) for _ in range(2))
        assert torch.equal(first.latents, second.latents)
        assert (first.latents - resident[0]).abs().max() <= 1e-4 * resident[0].abs().max()
        assert np.abs(first.frames.astype(float) - resident[1]).max() <= 1
        denoiser, encoder, decoder = generator.compiled_models
        assert any(ir.tensor_type(param).placed_axes for param in kept_on_host(encoder.programs[0]))
        (decoding,) = decoder.report.programs
        assert decoding.mesh == "mesh(sp=2)" and max(decoding.flops_per_rank) <= 0.65 * decoding.flops
        assert "AutoencoderKLWan.decode on 2 ranks" in generator.explain()
        assert denoiser._ranks.group is not None
        there = [bool(loaded.params) for loaded in denoiser._ranks.group._session.rank._loaded.values()]
        assert there == [False, False, True]  # the others have left for the decoder


def test_module_comes_home_and_stays_as_it_was(folder: Path) -> None:
    opened = loading.open_pipeline(folder)
    pipeline = diffusers.WanPipeline(**{role: opened.load(role, torch.float32).value for role in opened.family.roles})
    before = {name: value.data_ptr() for name, value in pipeline.transformer.state_dict().items()}
    pipeline.set_progress_bar_config(disable=True)
    request = {"prompt": "a cat", "height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 1}
    expected = pipeline(**request, generator=torch.Generator().manual_seed(3), output_type="np").frames
    parts = ["text_encoder", "transformer"]
    with fastvideo.compile(pipeline, components=parts, device="cpu", verify=False, offload="sequential") as compiled:
        for _ in range(2):
            frames = compiled(**request, generator=torch.Generator().manual_seed(3), output_type="np").frames
            assert np.abs(frames - expected).max() < 1e-4
        present = [model for model in compiled.compiled.values() if _is_there(model)]
        assert present == [compiled.compiled["transformer"]]
    assert before == {name: value.data_ptr() for name, value in pipeline.transformer.state_dict().items()}


def _is_there(model: Any) -> bool:
    return any(found.executor._params is not None for entries in model._specializations.values() for found in entries)


@pytest.fixture
def small(copy: Path) -> Path:
    """The pipeline with defaults for which its denoiser takes 6 MB, 2.8 of them weights; others have 3 MB."""
    sizes = {name: SMALL[name] for name in ("height", "width", "num_frames")}
    (copy / "fastvideo.json").write_text(json.dumps({"sampling": sizes}))
    return copy


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers and configs must do."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(modules, "load_diffusers_model", refuse)
    monkeypatch.setattr(modules, "load_transformers_model", refuse)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("megabytes", "turns"), [(100, False), (20, False), (8, True)])
def test_memory_decides(small: Path, megabytes: int, turns: bool) -> None:
    opened = loading.open_pipeline(small)
    settings = resolve_settings(1, None, None, "auto", "cpu", None, (), True, max_memory=f"{megabytes}MB")
    found = resolve_residency(opened, settings, resolve_dtypes(opened.family, settings.device, None))
    assert (found.turns is not None) == turns
    left = found.settings_for("transformer", settings).memory
    assert left == (megabytes * 10**6 if turns else megabytes * 10**6 - sum(weights_of(small).values()) + 2_761_920)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("offload", "megabytes", "hint"),
    [
        ("none", 8, 'beside 2.9 MiB of the other modules\' weights, .*it fits with offload="sequential"'),
        ("sequential", 5, 'it fits with offload="blocks"'),
    ],
)
def test_what_cannot_fit_is_refused_before_weights_are_read(
    small: Path, offload: str, megabytes: int, hint: str
) -> None:
    with pytest.raises(DeviceMemoryError, match=f"in its default size takes .* per rank at its peak.*{hint}"):
        make(small, offload=offload, max_memory=megabytes * 10**6)


def test_little_memory_does(small: Path, components: Components) -> None:
    with make(small, max_memory="5MB") as generator:
        assert distance(generate(generator).latents, reference_latents(components)) < 1e-4
        text = generator.explain()
        assert "fetched block by block" in text
        assert "nothing for encoder_hidden_states: memory is too short" in text
