"""The generator whole: compiled, on one rank and on two."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.runtime.pipeline import StepInfo, output_file
from fastvideo.runtime.pipeline.metadata import read_metadata
from fastvideo.sampling_param import SamplingParam

from .compiled import run_python
from .small_request import SMALL
from .test_parity import distance, reference_latents
from .test_video import FULL, decode

if TYPE_CHECKING:
    from fastvideo import VideoGenerator


Components = dict[str, loading.Component]


def make(folder: Path, **options: Any) -> VideoGenerator:
    from fastvideo.video_generator import VideoGenerator

    return VideoGenerator.from_pretrained(folder, device="cpu", **options)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def ranks(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def generator(folder: Path, ranks: int) -> Iterator[VideoGenerator]:
    with make(folder, num_gpus=ranks) as generator:
        yield generator


def generate(generator: VideoGenerator, **changes: Any) -> Any:
    return generator.generate_video(**{**SMALL, "save_video": False, "return_latents": True, **changes})


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}, {"negative_prompt": ""}], ids=repr)
def test_latents_equal_those_of_diffusers(
    generator: VideoGenerator, components: Components, changes: dict[str, Any]
) -> None:
    assert distance(generate(generator, **changes).latents, reference_latents(components, **changes)) < 1e-4


def test_result(generator: VideoGenerator, tmp_path: Path) -> None:
    params = SamplingParam(**{**SMALL, "fps": 12})
    video = generator.generate_video("a cat", sampling_param=params, output_path=tmp_path, return_frames=True)
    assert (video.prompt, video.seed, video.fps, video.save_error, video.latents) == ("a cat", 7, 12, None, None)
    assert video.path == tmp_path / "a-cat.mp4" and video.frames is not None
    frames, rate, _ = decode(video.path)
    assert frames.shape == video.frames.shape == (9, 48, 80, 3) and rate == 12
    assert list(video.seconds)[-3:] == ["inputs", "denoise", "decode"]
    assert len(video.step_seconds) == 4


def test_file_says_how_it_was_made(generator: VideoGenerator, tmp_path: Path) -> None:
    path = generate(generator, save_video=True, output_path=tmp_path / "a.gif", num_inference_steps=1).path
    told = read_metadata(path)
    again = {name: told[name] for name in (*SMALL, "fps", "max_sequence_length")}
    assert again == {**SMALL, "num_inference_steps": 1, "fps": 16, "max_sequence_length": 512}
    assert set(told["versions"]) >= {"torch", "diffusers"}


def test_several_prompts(generator: VideoGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A prompt that fails half way is reported; those before and after it are made, each as if it were alone."""
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\na dog\na bird\n")
    steps: list[StepInfo] = []

    def fail_in_the_second(info: StepInfo) -> None:
        steps.append(info)
        if len(steps) == 6:
            raise RuntimeError("out of luck")

    options = {"prompt": None, "prompt_path": file, "save_video": True, "output_path": tmp_path}
    cat, dog, bird = generate(generator, **options, on_step=fail_in_the_second)
    assert [info.step for info in steps] == [1, 2, 3, 4, 1, 2, 1, 2, 3, 4] and steps[0].num_steps == 4
    assert steps[0].timestep > steps[1].timestep and steps[3].latents is cat.latents
    assert dog.prompt == "a dog" and dog.path is None and "out of luck" in str(dog.error)
    assert "prompt 2 of 3 failed: RuntimeError: out of luck" in caplog.text
    assert cat.path == tmp_path / "a-cat.mp4" and bird.path == tmp_path / "a-bird.mp4" and bird.error is None
    alone = generate(generator, prompt="a bird").latents
    assert distance(bird.latents, alone) < 1e-6 < 1e-3 < distance(bird.latents, cat.latents)
    assert isinstance(generate(generator, prompt=["a cat"], num_inference_steps=1), list)
    with pytest.raises(ir.errors.InvalidArgumentError, match="the prompt is empty"):  # before the first one starts
        generate(generator, prompt=["a cat", " "], on_step=lambda info: pytest.fail("a step ran"))


def test_callback_cancels(generator: VideoGenerator, tmp_path: Path) -> None:
    options = {"save_video": True, "output_path": tmp_path}
    with pytest.raises(ir.errors.GenerationCancelledError, match="cancelled by the callback after step 2 of 4"):
        generate(generator, **options, prompt=["a cat", "a dog"], on_step=lambda info: info.step < 2)
    assert list(tmp_path.iterdir()) == []
    assert generate(generator, **options, on_step=lambda info: None).path is not None


def test_seed(generator: VideoGenerator) -> None:
    drawn = generate(generator, seed=None, num_inference_steps=1)
    again = generate(generator, seed=drawn.seed, num_inference_steps=1)
    other = generate(generator, seed=drawn.seed + 1, num_inference_steps=1)
    assert distance(again.latents, drawn.latents) < 1e-6 < 1e-2 < distance(other.latents, drawn.latents)


def test_explain(generator: VideoGenerator) -> None:
    generate(generator, num_inference_steps=1)
    assert generator.explain().startswith("transformer\n")
    assert "for each of the last 2 of encoder_hidden_states" in generator.explain()


def test_full_disk_keeps_the_frames(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(output_file.FORMATS, "mp4", FULL)
    with make(folder) as generator:
        video = generate(generator, save_video=True, output_path=tmp_path, num_inference_steps=1)
    assert video.path is None and video.frames is not None and video.frames.shape == (9, 48, 80, 3)
    assert "No space left on device" in video.save_error


def test_wrong_requests_reach_no_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(folder) as generator:
        monkeypatch.setattr(generator._pipeline, "run", None)
        for changes, message in (
            ({"num_frames": 10}, "the nearest values are 9 or 13"),
            ({"prompt": None}, "no prompt was given"),
            ({"prompt_path": "/nothing.txt"}, "both a prompt and a prompt file"),
            ({"prompt": None, "prompt_path": "/nothing.txt"}, "'/nothing.txt' does not exist"),
            ({"num_frame": 9}, "did you mean 'num_frames'"),
            ({"save_video": True, "output_path": "/proc/nothing"}, "cannot be written"),
        ):
            with pytest.raises(ir.errors.InvalidArgumentError, match=message):
                generate(generator, **changes)


def test_closed(folder: Path) -> None:
    generator = make(folder)
    generator.close()
    generator.close()
    with pytest.raises(ir.errors.InvalidArgumentError, match="this generator is closed"):
        generate(generator)


def test_wrong_arguments_load_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading.PipelineFolder, "load", load)
    for options, message in (
        ({"num_gpu": 2}, "unknown argument of from_pretrained 'num_gpu'.*did you mean 'num_gpus'"),
        ({"num_gpus": 0}, "num_gpus must be an integer of at least 1"),
        ({"dtype": "float17"}, "unknown dtype 'float17'"),
        ({"dtype": {"vea": "float32"}}, "did you mean 'vae'"),
        ({"dtype": "float32", "torch_dtype": "float32"}, "both dtype and torch_dtype"),
        ({"flow_shift": 0}, "flow_shift must be a positive number"),
        ({"compile_encoders": "no"}, "compile_encoders='no': expected True, False or None"),
    ):
        with pytest.raises(ir.errors.InvalidArgumentError, match=message):
            make(folder, **options)


def test_more_gpus_than_there_are_load_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvideo.video_generator import VideoGenerator

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(loading, "open_pipeline", None)
    with pytest.raises(ir.errors.InvalidArgumentError, match="num_gpus=9 was asked for, but this machine has 1 CUDA"):
        VideoGenerator.from_pretrained(folder, num_gpus=9)


def test_dtypes_and_flow_shift(folder: Path) -> None:
    dtype = {"transformer": torch.bfloat16, "vae": "float64"}
    with make(folder, torch_dtype=dtype, flow_shift=16) as generator:
        parts = generator._pipeline.context.components
        assert parts["transformer"].dtype == torch.bfloat16 and parts["vae"].dtype == torch.float64
        assert parts["text_encoder"].dtype == torch.float32
        assert parts["scheduler"].value.config.flow_shift == 16.0


def test_encoders_are_compiled_on_several_ranks_or_where_asked(folder: Path) -> None:
    from fastvideo.compiler import CompiledModel

    two = {"num_gpus": 2, "executor": "simulated"}
    for options, expected in (
        ({}, False),
        ({"compile_encoders": True}, True),
        ({**two, "attention_backend": "SAGE_ATTN", "cache": "first-block:0.1"}, True),
        ({**two, "compile_encoders": False}, False),
    ):
        with make(folder, **options) as generator:
            encoder = generator._pipeline.context.components["text_encoder"].value
            assert isinstance(encoder, CompiledModel) == expected
            if expected:
                asked = encoder._settings
                assert (asked.attention_backend, asked.cache, asked.num_ranks) == (
                    "auto",
                    None,
                    options.get("num_gpus", 1),
                )


def test_several_threads(generator: VideoGenerator) -> None:
    alone = {seed: generate(generator, seed=seed).latents for seed in (1, 2, 3)}
    found: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        found[seed] = generate(generator, seed=seed).latents

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], alone[seed]) for seed in alone)


def test_script_on_stdin_without_a_main_guard(folder: Path, tmp_path: Path) -> None:
    script = f"""
from fastvideo import SamplingParam, VideoGenerator
generator = VideoGenerator.from_pretrained({str(folder)!r}, num_gpus=2, device="cpu")
params = SamplingParam({str(folder)!r}, num_inference_steps=2, guidance_scale=7.5, width=80, height=48)
video = generator.generate_video("detailed landscape with mountains and a lake", sampling_param=params, num_frames=5)
print(video.path)
"""
    done = run_python(["-"], tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "outputs/detailed-landscape-with-mountains-and-a-lake.mp4\n"
    assert decode(tmp_path / done.stdout.strip())[0].shape == (5, 48, 80, 3)
