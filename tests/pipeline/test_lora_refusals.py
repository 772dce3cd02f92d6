"""LoRA that cannot be loaded: each is refused with a reason, before any weight has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.loras import check_lora
from fastvideo.runtime.pipeline.metadata import read_metadata

from .test_lora import make

if TYPE_CHECKING:
    from fastvideo import VideoGenerator


@pytest.fixture(scope="module")
def idle(folder: Path) -> Iterator[VideoGenerator]:
    """A generator that never has to compute anything."""
    with make(folder) as generator:
        yield generator


Q = "transformer.blocks.0.attn1.to_q"
PAIR = {f"{Q}.lora_A.weight": torch.ones(2, 144), f"{Q}.lora_B.weight": torch.ones(144, 2)}
ELSEWHERE = {
    "transformer.nowhere.lora_A.weight": torch.ones(2, 144),
    "transformer.nowhere.lora_B.weight": torch.ones(4, 2),
}
MISFITS: list[tuple[dict[str, Tensor], str]] = [
    (ELSEWHERE, "0 of 1 layers of .* 1 have no place: transformer.nowhere .the LoRA is for another model"),
    ({**PAIR, **ELSEWHERE}, "1 of 2 layers of .* 1 have no place: transformer.nowhere .strict=False loads what fits"),
    ({**PAIR, f"{Q}.lora_A.weight": torch.ones(2, 40)}, r"to_q.weight is \(144, 144\) and not \(144, 40\)"),
    ({**PAIR, f"{Q}.lora_B.weight": torch.ones(144, 3)}, "have another shape"),
    ({f"{Q}.lora_A.weight": torch.ones(()), f"{Q}.lora_B.weight": torch.ones(144)}, "have another shape"),
    ({f"{Q}.lora_A.weight": torch.ones(0, 144), f"{Q}.lora_B.weight": torch.ones(144, 0)}, "have another shape"),
    ({f"{Q}.lora_A.weight": torch.ones(2, 144)}, "1 have no place: transformer.blocks.0.attn1.to_q "),
    ({**PAIR, "text_encoder.shared.lora_A.weight": torch.ones(2, 2)}, "1 have no place: text_encoder.shared"),
    ({**PAIR, f"{Q}.lora_magnitude_vector": torch.ones(144)}, "is a DoRA, which cannot be added to the weights"),
    ({"diffusion_model.double_blocks.0.lora_A.weight": torch.ones(2, 2)}, "is no LoRA that WanPipeline can convert"),
    ({**PAIR, f"{Q}.lora_A.weight": torch.full((2, 144), torch.nan)}, "is damaged: .* values that are not finite"),
]


@pytest.mark.parametrize(("tensors", "message"), MISFITS, ids=[case[1][-32:] for case in MISFITS])
def test_misfits_change_nothing(
    idle: VideoGenerator, folder: Path, tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    save_file(tensors, file)
    (compiled,) = idle.compiled_models
    versions = {name: (param.data_ptr(), param._version) for name, param in compiled.named_parameters()}
    with pytest.raises(ir.errors.FastVideoError, match=message) as caught:
        idle.load_lora(file)
    assert str(file) in str(caught.value) and caught.value.hint and "\n" not in str(caught.value)
    with pytest.raises(type(caught.value), match=message):
        check_lora(folder, file)
    assert idle.loras == {}
    assert versions == {name: (param.data_ptr(), param._version) for name, param in compiled.named_parameters()}


def test_alpha_that_is_no_number(idle: VideoGenerator, tmp_path: Path) -> None:
    save_file({**PAIR, f"{Q}.alpha": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ir.errors.InvalidArgumentError, match=r"no number for the alpha of 'blocks.0.attn1.to_q'"):
        idle.load_lora(tmp_path / "x.safetensors")
    save_file(
        PAIR, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": '{"transformer.lora_alpha": "much"}'}
    )
    with pytest.raises(ir.errors.InvalidArgumentError, match="no number for the alpha"):
        idle.load_lora(tmp_path / "x.safetensors")
    save_file(PAIR, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(ir.errors.PipelineLoadError, match=r"x.safetensors' is damaged: lora_adapter_metadata"):
        idle.load_lora(tmp_path / "x.safetensors")


def test_what_conversion_would_drop_is_told(idle: VideoGenerator, tmp_path: Path) -> None:
    """Diffusers leaves out differences of norms, as files have them where they are zero."""
    pair = {
        f"diffusion_model.blocks.0.self_attn.q.lora_{half}.weight": PAIR[f"{Q}.lora_{half}.weight"] for half in "AB"
    }
    for value, fits in ((0.0, True), (1.0, False)):
        save_file(
            {**pair, "diffusion_model.blocks.0.norm3.diff": torch.full((144,), value)}, tmp_path / "x.safetensors"
        )
        if fits:
            idle.unload_lora(idle.load_lora(tmp_path / "x.safetensors"))
        else:
            with pytest.raises(ir.errors.InvalidArgumentError, match=r"1 of 2 layers .*norm3"):
                idle.load_lora(tmp_path / "x.safetensors")


def test_part_of_a_lora(idle: VideoGenerator, tmp_path: Path) -> None:
    save_file({**PAIR, **ELSEWHERE}, tmp_path / "x.safetensors")
    weight = idle.compiled_models[0].get_parameter("blocks.0.attn1.to_q.weight")
    before = weight.detach().clone()
    with pytest.warns(UserWarning, match="1 of 2 layers of .* 1 have no place: transformer.nowhere") as caught:
        idle.load_lora(tmp_path / "x.safetensors", "half", strict=False)
    assert caught[0].filename == __file__
    torch.testing.assert_close(weight, before + 2.0)
    idle.unload_lora("half")
    assert torch.equal(weight, before)


def test_names_and_scales(idle: VideoGenerator, tmp_path: Path) -> None:
    (tmp_path / "style").mkdir()
    save_file(PAIR, tmp_path / "style/pytorch_lora_weights.safetensors")
    assert idle.load_lora(tmp_path / "style") == "style"
    with pytest.raises(ir.errors.InvalidArgumentError, match="a LoRA named 'style' is loaded already"):
        idle.load_lora(tmp_path / "style/pytorch_lora_weights.safetensors")
    for call in (idle.unload_lora, lambda name: idle.set_lora_scale(name, 1.0)):
        with pytest.raises(
            ir.errors.UnknownNameError, match=r"unknown LoRA 'stile'; known: style .did you mean 'style'"
        ):
            call("stile")
    for scale in (float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ir.errors.InvalidArgumentError, match="the scale of a LoRA must be a finite number, got"):
            idle.set_lora_scale("style", scale)  # type: ignore[arg-type]
        with pytest.raises(ir.errors.InvalidArgumentError, match="the scale of a LoRA must be a finite number, got"):
            idle.load_lora(tmp_path / "style", "other", scale=scale)  # type: ignore[arg-type]
    assert idle.loras == {"style": 1.0}
    idle.unload_lora("style")


def test_files(idle: VideoGenerator, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "several").mkdir()
    torch.save(PAIR, tmp_path / "pickled/pytorch_lora_weights.bin")
    for name in "ab":
        save_file(PAIR, tmp_path / f"several/{name}.safetensors")
    whole = (tmp_path / "several/a.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[:-9])
    for source, message in (
        ("none.safetensors", "none.safetensors' does not exist"),
        ("empty", "empty' has no safetensors file"),
        ("pickled", "pytorch_lora_weights.bin' is a pickle, and pickles are never loaded"),
        ("pickled/pytorch_lora_weights.bin", "is a pickle, and pickles are never loaded"),
        ("several", "several' has 2 safetensors files: a.safetensors, b.safetensors .name one with weight_name="),
        ("short.safetensors", "short.safetensors' is truncated or damaged"),
        ("no such thing", "is neither a file or folder on this machine nor a hub id"),
    ):
        with pytest.raises(ir.errors.PipelineLoadError, match=message):
            idle.load_lora(tmp_path / source)
    with pytest.raises(ir.errors.PipelineLoadError, match=r"several/c.safetensors' does not exist"):
        idle.load_lora(tmp_path / "several", weight_name="c.safetensors")
    assert idle.load_lora(tmp_path / "several", weight_name="b.safetensors") == "b"
    idle.unload_lora("b")


def test_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fastvideo.cli import main

    save_file(PAIR, tmp_path / "a.safetensors")
    save_file(ELSEWHERE, tmp_path / "b.safetensors")
    words = ["generate", "--model", str(folder), "--prompt", "x", "--output", str(tmp_path / "x.gif"), "--steps", "1"]
    words += ["--height", "48", "--width", "80", "--num-frames", "5", "--device", "cpu"]
    assert main([*words, "--lora", f"{tmp_path}/a.safetensors:0.5"]) == 0
    assert read_metadata(tmp_path / "x.gif")["loras"] == {"a": 0.5}
    capfd.readouterr()

    def load(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading.PipelineFolder, "load", load)
    assert main([*words, "--lora", f"{tmp_path}/a.safetensors", "--lora", f"{tmp_path}/b.safetensors"]) == 2
    assert "0 of 1 layers" in capfd.readouterr().err
    assert main([*words, "--lora", f"{tmp_path}/a.safetensors:inf"]) == 2
    assert "the scale of a LoRA must be a finite number, got inf" in capfd.readouterr().err
