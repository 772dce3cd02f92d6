"""A picture is read before anything heavy; who takes none says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.runtime.pipeline.picture import read_picture
from fastvideo.runtime.pipeline.validate import validate_request
from fastvideo.video_generator import VideoGenerator

from .small_request import SMALL, small_request
from .tiny_families import build

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def takes_pictures(tmp_path_factory: pytest.TempPathFactory) -> loading.PipelineFolder:
    folder = tmp_path_factory.mktemp("picture") / "pipeline"
    build("wan2.1-i2v", folder)
    return loading.open_pipeline(folder)


def test_all_forms_of_a_picture_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(file)
    as_bytes = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for form in (file, str(file), Image.open(file), as_bytes, as_bytes[None], as_bytes / 255):
        assert (np.asarray(read_picture(form)) == PIXELS).all()


def test_pictures_are_made_upright_and_rgb(tmp_path: Path) -> None:
    picture, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = 6  # shot with the camera turned
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png").size == (6, 10)
    assert read_picture(Image.fromarray(PIXELS[..., 0])).mode == "RGB"


def test_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.repeat(PIXELS, 40, axis=0)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.png", "none.png' does not exist"),
        (tmp_path / "text.png", "text.png' cannot be read: cannot identify image file"),
        (tmp_path / "half.png", "half.png' cannot be read: "),
        (tmp_path, "cannot be read: "),
        (7, "image must be a picture, got a int"),
        (torch.zeros(3, 4), r"a tensor of shape (3, 4)"),
        (torch.full((3, 4, 4), 1.5), "values that are not from 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "values that are not from 0 to 1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "a tensor of torch.int64"),
    ]
    for image, message in cases:
        with pytest.raises(ir.errors.InvalidArgumentError) as caught:
            read_picture(image)
        assert message in caught.value.message and caught.value.hint, image


def test_a_family_says_whether_it_takes_a_picture(
    opened: loading.PipelineFolder, takes_pictures: loading.PipelineFolder
) -> None:
    picture = Image.fromarray(PIXELS)
    validate_request(small_request(image=picture), takes_pictures)
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"wan2.1-i2v makes videos from a picture, and none was"):
        validate_request(small_request(), takes_pictures)
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"wan2.1-t2v makes videos from text alone and takes no"):
        validate_request(small_request(image=picture), opened)


def test_refused_before_anything_is_loaded(
    folder: Path, takes_pictures: loading.PipelineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.PipelineFolder, "load", None)
    check = VideoGenerator.check_request
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"the image '/nothing.png' does not exist"):
        check(takes_pictures.path, **SMALL, image="/nothing.png")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"text and a picture, not from a video, got video=…"):
        check(takes_pictures.path, **SMALL, video="film.mp4")
    with pytest.raises(ir.errors.InvalidArgumentError, match="makes videos from text, not from a video") as caught:
        check(folder, **SMALL, video_path="film.mp4")
    assert caught.value.hint == "leave it out; no family does video-to-video"
