"""The generator whole: compiled, on one rank and on two."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import fastvideo_ir as ir
from fastvideo.frontends import loading
from fastvideo.parallel import Parallel
from fastvideo.pipeline_config import PipelineConfig
from fastvideo.prompts import groups
from fastvideo.runtime.pipeline import StepInfo, output_file
from fastvideo.runtime.pipeline.metadata import read_metadata
from fastvideo.sampling_param import SamplingParam
from fastvideo.settings import resolve_settings

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
        if info.prompt == "a dog" and info.step == 2:
            raise RuntimeError("out of luck")

    options = {"prompt": None, "prompt_path": file, "save_video": True, "output_path": tmp_path}
    cat, dog, bird = generate(generator, **options, on_step=fail_in_the_second)
    of = {prompt: [info for info in steps if info.prompt == prompt] for prompt in ("a cat", "a dog", "a bird")}
    assert [[info.step for info in infos] for infos in of.values()] == [[1, 2, 3, 4], [1, 2], [1, 2, 3, 4]]
    assert of["a cat"][0].num_steps == 4 and of["a cat"][0].timestep > of["a cat"][1].timestep
    assert of["a cat"][3].latents is cat.latents
    assert dog.prompt == "a dog" and dog.path is None and "out of luck" in str(dog.error)
    assert "prompt 2 of 3 failed: RuntimeError: out of luck" in caplog.text
    assert cat.path == tmp_path / "a-cat.mp4" and bird.path == tmp_path / "a-bird.mp4" and bird.error is None
    alone = generate(generator, prompt="a bird").latents
    assert distance(bird.latents, alone) < 1e-6 < 1e-3 < distance(bird.latents, cat.latents)
    assert isinstance(generate(generator, prompt=["a cat"], num_inference_steps=1), list)
    with pytest.raises(ir.errors.InvalidArgumentError, match="the prompt is empty"):  # before the first one starts
        generate(generator, prompt=["a cat", " "], on_step=lambda info: pytest.fail("a step ran"))


def test_prompts_are_divided_over_the_ranks(generator: VideoGenerator, ranks: int, folder: Path) -> None:
    """Two prompts on two ranks: every step is one call, of which each rank has one video and nothing to exchange."""
    steps: list[tuple[int, str]] = []
    made = generate(generator, prompt=["a cat", "a dog"], on_step=lambda info: steps.append((info.step, info.prompt)))
    both = [(step, prompt) for step in (1, 2, 3, 4) for prompt in ("a cat", "a dog")]
    assert sorted(steps, key=lambda found: found[1]) == sorted(both, key=lambda found: found[1])
    assert (steps == both) == (ranks == 2)
    for video in made:
        assert distance(video.latents, generate(generator, prompt=video.prompt).latents) < 1e-5
    denoiser = generator.compiled_models[0]
    largest = max(denoiser.programs, key=lambda program: ir.tensor_type(program.input_nodes[0]).shape[0])
    assert ir.tensor_type(largest.input_nodes[0]).shape[0] == 2 * ranks
    if ranks == 2:
        assert largest.mesh.num_ranks == 2
        moved = [str(node.target) for node in largest.nodes if "all_to_all" in str(node.target)]
        assert not moved, "samples were cut"
        assert "up to 2 at a time, one per rank" in generator.explain()


@pytest.mark.parametrize("options", [{"guidance_scale": 1.0}, {}], ids=["unguided", "guided"])
def test_pinned_dp(folder: Path, options: dict[str, Any]) -> None:
    """Three prompts, two at a time by one program; the same as each alone on one rank. One alone is made too."""
    prompts = ["a cat", "a dog", "a bird"]
    with make(folder, parallel=Parallel(dp=2), executor="simulated") as generator:
        made = generate(generator, prompt=prompts, num_inference_steps=2, **options)
        [program] = generator.compiled_models[0].programs
        assert str(program.mesh) == "mesh(dp=2)"
        assert ir.tensor_type(program.input_nodes[0]).shape[0] == (2 if options else 4)
        single = generate(generator, prompt="a dog", num_inference_steps=2, **options)
        assert len(generator.compiled_models[0].programs) == 1
    with make(folder) as generator:
        for video in [*made, single]:
            alone = generate(generator, prompt=video.prompt, num_inference_steps=2, **options)
            assert distance(video.latents, alone.latents) < 1e-5


def test_ranks_decode_one_video_each(folder: Path) -> None:
    prompts = ["a cat", "a dog"]
    asked = {"num_inference_steps": 1, "return_frames": True}
    with make(folder, num_gpus=2, executor="simulated", compile_vae=True) as generator:
        made = generate(generator, prompt=prompts, **asked)
        decoder = generator.compiled_models[-1]
        [decoding] = decoder.report.programs
        assert max(decoding.flops_per_rank) < 0.52 * decoding.flops
        assert ir.tensor_type(decoder.programs[0].input_nodes[0]).shape[0] == 2
    with make(folder) as generator:
        for video in made:
            frames = generate(generator, prompt=video.prompt, **asked).frames
            assert np.abs(video.frames.astype(float) - frames).max() <= 1 < frames.std()


def test_what_does_not_fit_at_once_is_made_one_by_one(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(folder, num_gpus=2, executor="simulated") as generator:
        denoiser = generator.compiled_models[0]
        call = type(denoiser).__call__

        def small(self: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("hidden_states") is not None and kwargs["hidden_states"].shape[0] > 2:
                raise ir.errors.DeviceMemoryError("takes 3 GiB, and 2 GiB are there")
            return call(self, *args, **kwargs)

        monkeypatch.setattr(type(denoiser), "__call__", small)
        made = generate(generator, prompt=["a cat", "a dog"], num_inference_steps=1)
        assert all(video.error is None and video.latents is not None for video in made)
        assert "2 videos at a time failed, going on with 1: takes 3 GiB" in caplog.text


@pytest.mark.parametrize(
    ("count", "options", "sizes"),
    [
        (5, {"num_gpus": 4}, [4, 1]),
        (3, {"num_gpus": 4}, [2, 1]),
        (2, {"num_gpus": 1}, [1, 1]),
        (2, {"num_gpus": 2, "cache": "first-block:0.1"}, [1, 1]),
        (2, {"parallel": Parallel(sp=2)}, [1, 1]),
        (5, {"parallel": Parallel(dp=2, sp=2)}, [2, 2, 1]),
    ],
    ids=repr,
)
def test_how_many_at_a_time(count: int, options: dict[str, Any], sizes: list[int]) -> None:
    given = {"num_gpus": None, "parallel": None, "cache": None, **options}
    settings = resolve_settings(
        given["num_gpus"], given["parallel"], None, "simulated", "cpu", None, (), True, None, given["cache"]
    )
    found = list(groups(count, settings))
    assert [len(group) for group in found] == sizes
    assert [number for group in found for number in group] == list(range(count))


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
        monkeypatch.setattr(generator._pipeline, "run_together", None)
        for changes, message in (
            ({"num_frames": 10}, "the nearest values are 9 or 13"),
            ({"prompt": None}, "no prompt was given"),
            ({"prompt_path": "/nothing.txt"}, "both a prompt and a prompt file"),
            ({"prompt": None, "prompt_path": "/nothing.txt"}, "'/nothing.txt' does not exist"),
            ({"prompt": ["a cat", ""]}, "prompt 2 of 2: the prompt is empty"),
            ({"on_step": 3}, "on_step must be a function of a StepInfo, got 3"),
            ({"on_step": lambda step, timestep, latents: None}, "called with one StepInfo, which does not fit"),
            ({"on_step": lambda: None}, "called with one StepInfo, which does not fit"),
            ({"num_frame": 9}, "did you mean 'num_frames'"),
            ({"save_video": True, "output_path": "/proc/nothing"}, "cannot be written"),
        ):
            with pytest.raises(ir.errors.InvalidArgumentError, match=message):
                generate(generator, **changes)
        monkeypatch.undo()
        assert generate(generator, num_frames=np.int64(1), num_inference_steps=np.int32(1)).latents.shape[2] == 1


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
    with pytest.raises(ir.errors.UnknownNameError, match=r"entry of a pipeline config 'num_gpu'.*'num_gpus'"):
        PipelineConfig(num_gpu=2)
    for nothing in (None, "", 3):
        with pytest.raises(ir.errors.PipelineLoadError, match="a pipeline is named by a folder or a hub id, got"):
            make(nothing)


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
