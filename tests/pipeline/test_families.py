"""Families are data: told apart by what a folder holds, each with the defaults of its checkpoints."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import fastvideo_ir as ir
from fastvideo.frontends import families, loading
from fastvideo.frontends.families import FAMILIES, Family, select_family
from fastvideo.frontends.families.hunyuan import HUNYUAN_VIDEO
from fastvideo.runtime.pipeline.inputs import INPUTS
from fastvideo.runtime.pipeline.picture_latents import PICTURE_LATENTS
from fastvideo.runtime.pipeline.standard_stages import STAGES
from fastvideo.runtime.pipeline.timesteps import SIGMAS
from fastvideo.runtime.pipeline.validate import validate_request
from fastvideo.sampling_param import SamplingParam

from .small_request import small_request
from .tiny_families import build

COMPLETE = {"negative_prompt", "height", "width", "num_frames", "fps", "num_inference_steps", "guidance_scale"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_in_a_family_exist(family: Family) -> None:
    assert set(family.stages) <= set(STAGES) and set(family.inputs) <= set(INPUTS) and family.sigmas in SIGMAS
    classes = [family.pipeline_class]
    if family.picture is not None:
        assert family.picture.latents in PICTURE_LATENTS
        assert family.picture.encoder in (None, *family.roles)
        classes.append(family.picture.pipeline_class)
    assert all(issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline) for name in classes)
    assert set(family.compiled) | set(family.encoders) | set(family.accelerator_dtypes) <= set(family.roles)
    assert not set(family.compiled) & set(family.encoders)
    assert set(family.encoders) == {role for role in family.roles if "encoder" in role}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_defaults_are_complete_and_fit(family: Family) -> None:
    names = {field.name for field in fields(SamplingParam)}
    assert set(family.defaults) >= COMPLETE | {"max_sequence_length"}
    for preset in family.presets:
        values = family.defaults_for(preset.ids[0])
        assert set(values) <= names and set(values) == set(family.defaults)
        if isinstance(family.spatial_factor, int):
            assert values["height"] % family.spatial_factor == values["width"] % family.spatial_factor == 0
        if isinstance(family.temporal_factor, int):
            assert values["num_frames"] % family.temporal_factor == 1
    assert len(family.ids) == len(set(family.ids))


def test_ids_are_of_one_family() -> None:
    ids = [model_id for family in FAMILIES for model_id in family.ids]
    assert len(ids) == len(set(ids)) and len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_family_is_small() -> None:
    for file in Path(families.__file__).parent.glob("*.py"):
        if file.stem not in {"__init__", "family"}:
            assert len(file.read_text().splitlines()) < 150, file.name


INDEXES: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "WanPipeline"}, "wan2.1-t2v"),
    ({"_class_name": "WanPipeline", "transformer_2": [None, None], "boundary_ratio": None}, "wan2.1-t2v"),
    ({"_class_name": "WanPipeline", "expand_timesteps": True}, "wan2.2-ti2v-5b"),
    (
        {"_class_name": "WanPipeline", "transformer_2": ["diffusers", "X"], "boundary_ratio": 0.875},
        "wan2.2-t2v-a14b",
    ),
    ({"_class_name": "WanImageToVideoPipeline"}, "wan2.1-i2v"),
    (
        {"_class_name": "WanImageToVideoPipeline", "transformer_2": ["diffusers", "X"], "boundary_ratio": 0.9},
        "wan2.2-i2v-a14b",
    ),
    ({"_class_name": "HunyuanVideoPipeline"}, "hunyuan-video"),
    ({"_class_name": "HunyuanVideo15Pipeline"}, "hunyuan-video-1.5"),
    ({"_class_name": "CogVideoXPipeline"}, "cogvideox"),
    ({"_class_name": "LTXPipeline"}, "ltx-video"),
    ({"_class_name": "MochiPipeline"}, "mochi-1"),
]


@pytest.mark.parametrize(("index", "name"), INDEXES, ids=[case[1] for case in INDEXES])
def test_variants_are_told_apart(index: dict[str, Any], name: str) -> None:
    assert select_family(index, "folder").name == name


def test_what_has_no_family() -> None:
    with pytest.raises(ir.errors.PipelineLoadError) as caught:
        select_family({"_class_name": "WanVACEPipeline"}, "folder")
    assert "'folder' is a 'WanVACEPipeline' pipeline, for which there is no family" in caught.value.message
    assert "fastvideo.compile(pipeline, num_gpus=…)" in str(caught.value.hint)
    assert "HunyuanVideoPipeline, LTXPipeline, MochiPipeline" in str(caught.value.hint)
    with pytest.raises(ir.errors.PipelineLoadError, match=r"wan2.2-t2v-a14b needs transformer_2=<any> \(here None\)"):
        select_family({"_class_name": "WanPipeline", "boundary_ratio": 0.9}, "folder")


def test_defaults_go_by_id_then_by_config(tmp_path: Path) -> None:
    assert HUNYUAN_VIDEO.defaults_for("hunyuanvideo-community/HunyuanVideo")["num_inference_steps"] == 50
    assert HUNYUAN_VIDEO.defaults_for("FastVideo/FastHunyuan-diffusers")["num_inference_steps"] == 6
    assert HUNYUAN_VIDEO.defaults_for("somebody/else")["num_inference_steps"] == 50
    build("fast-hunyuan", tmp_path / "fast")
    opened = loading.open_pipeline(tmp_path / "fast", weights=False)
    assert opened.preset.values["num_inference_steps"] == 6 and opened.preset.values["guidance_scale"] == 6.0
    assert SamplingParam(tmp_path / "fast").num_frames == 125


def test_best_flow_shift_gives_way_to_the_users(tmp_path: Path) -> None:
    build("wan2.1-i2v", tmp_path)
    opened = loading.open_pipeline(tmp_path)
    assert opened.preset.flow_shift is None and opened.scheduler_overrides(None) is None
    at_720p = replace(opened, source="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers")
    assert at_720p.scheduler_overrides(None) == {"flow_shift": 5.0}
    assert at_720p.scheduler_overrides(8) == {"flow_shift": 8.0}
    scheduler = at_720p.load("scheduler", torch.float32, at_720p.scheduler_overrides(None))
    assert scheduler.value.config.flow_shift == 5.0


@pytest.mark.parametrize(
    ("field", "value"), [("guidance_scale_2", 3.0), ("true_cfg_scale", 2.0), ("use_dynamic_cfg", True)]
)
def test_fields_of_other_families_are_refused(opened: loading.PipelineFolder, field: str, value: Any) -> None:
    with pytest.raises(ir.errors.InvalidArgumentError, match=f"wan2.1-t2v has no {field}"):
        validate_request(small_request(**{field: value}), opened)


def test_limits_of_a_family(tmp_path: Path) -> None:
    build("mochi-1", tmp_path / "mochi")
    build("cogvideox-2b", tmp_path / "cog")
    mochi, cogvideox = loading.open_pipeline(tmp_path / "mochi"), loading.open_pipeline(tmp_path / "cog")
    request = small_request(num_frames=7, max_sequence_length=226)
    validate_request(replace(request, max_sequence_length=100), mochi)
    validate_request(replace(request, num_frames=9), cogvideox)
    for opened, changes, message in (
        (mochi, {"num_inference_steps": 1}, "num_inference_steps must be an integer from 2 to 1000, got 1"),
        (mochi, {"num_frames": 9}, "num_frames must be 1 more than a multiple of 6 for this VAE, got 9"),
        (cogvideox, {"num_frames": 9, "max_sequence_length": 225}, "max_sequence_length must be 226, got 225"),
        (cogvideox, {"num_frames": 9, "use_dynamic_cfg": 1}, "use_dynamic_cfg must be True or False, got 1"),
        (cogvideox, {"height": 40}, "height must be a multiple of 16 pixels for this VAE and transformer, got 40"),
    ):
        with pytest.raises(ir.errors.InvalidArgumentError, match=message):
            validate_request(replace(request, **changes), opened)


def test_learned_positions_are_of_one_size(tmp_path: Path) -> None:
    build("cogvideox-5b-i2v", tmp_path)
    file = tmp_path / "transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_learned_positional_embeddings": True}))
    opened = loading.open_pipeline(tmp_path)
    picture = Image.new("RGB", (8, 8))
    validate_request(small_request(image=picture, max_sequence_length=226), opened)
    with pytest.raises(ir.errors.InvalidArgumentError, match="videos of 80 × 48 pixels alone, asked were 96 × 48"):
        validate_request(small_request(image=picture, max_sequence_length=226, width=96), opened)
