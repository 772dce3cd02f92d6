"""Every family: same weights, same seed, and the latents and frames are those of diffusers' own pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from fastvideo import Parallel, compile
from fastvideo.compiler import CompiledModel
from fastvideo.frontends import loading
from fastvideo.runtime.pipeline import ComposedPipeline, GenerationState
from fastvideo.sampling_param import resolve_request
from fastvideo.video_generator import VideoGenerator

from .test_parity import distance
from .tiny_families import build

PROMPT = {"prompt": 'a cat on the "red chair"', "negative_prompt": "low quality"}
SMALL: dict[str, Any] = {
    "height": 48,
    "width": 80,
    "num_frames": 9,
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "seed": 7,
}


@dataclass(frozen=True)
class Case:
    """A tiny pipeline, what is asked of it, and whether a picture goes in.

    Attributes:
        name: in ``TINY``.
        changes: of the request.
        picture: whether the video starts from one.
        unguided: further changes that turn guidance off.
        ranks: on how many the denoiser is compiled here; families of several cases have both one and two.
        encoders: whether the encoders are compiled with it on two ranks.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    picture: bool = False
    unguided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})
    ranks: int = 2
    encoders: bool = False

    @property
    def id(self) -> str:
        return f"{self.name}-picture" if self.picture else self.name


LARGER = {"height": 64, "width": 96}
TRUE_CFG = {"true_cfg_scale": 3.0}
NO_TRUE_CFG = {"true_cfg_scale": 1.0}
CASES = [
    Case("wan2.2-t2v-a14b", {"guidance_scale_2": 3.0}),
    Case("wan2.2-ti2v-5b", LARGER, encoders=True),
    Case("wan2.2-ti2v-5b", LARGER, picture=True),
    Case("wan2.1-i2v", picture=True, ranks=1),
    Case("wan2.2-i2v-a14b", {"guidance_scale_2": 3.0}, picture=True),
    Case("hunyuan-video", TRUE_CFG, unguided=NO_TRUE_CFG, ranks=1),
    Case("fast-hunyuan", NO_TRUE_CFG, unguided={"guidance_scale": 1.0}, encoders=True),
    Case("cogvideox-2b", encoders=True),
    Case("cogvideox-5b", {"use_dynamic_cfg": True}),
    Case("cogvideox-1.5", {"num_frames": 17}, ranks=1),
    Case("cogvideox-5b-i2v", picture=True),
    Case("cogvideox-1.5-i2v", {"num_frames": 17}, picture=True),
    Case("ltx-video", {**LARGER, "fps": 24}),
    Case("ltx-video-0.9.1", {**LARGER, "decode_timestep": 0.05, "decode_noise_scale": 0.025}),
    Case("ltx-video", LARGER, picture=True),
    Case("mochi-1", {"num_frames": 7}),
    Case("hunyuan-video-1.5", {"max_sequence_length": 64}, encoders=True),
]


@dataclass
class Tiny:
    """One tiny pipeline: as diffusers has it, as read back from disk, and its components in float32, not compiled."""

    case: Case
    original: Any
    opened: loading.PipelineFolder
    components: dict[str, loading.Component]
    made: dict[str, Any] = field(default_factory=dict)

    def pipeline(self, **replaced: Any) -> ComposedPipeline:
        parts = {role: replace(self.components[role], value=value) for role, value in replaced.items()}
        return ComposedPipeline(self.opened, {**self.components, **parts}, torch.device("cpu"))

    def run(self, pipeline: ComposedPipeline, **changes: Any) -> GenerationState:
        asked = {**PROMPT, **SMALL, **self.case.changes, **changes}
        if self.case.picture:
            asked["image"] = picture()
        return pipeline.run(resolve_request(self.opened.preset.values, None, asked))

    def reference(self, output_type: str, **changes: Any) -> Any:
        """As :meth:`make_reference`, made once."""
        key = repr((output_type, changes))
        if key not in self.made:
            self.made[key] = self.make_reference(output_type, **changes)
        return self.made[key]

    def make_reference(self, output_type: str, **changes: Any) -> Any:
        """What diffusers makes, with the weights as they were before they were written, by its own loop."""
        family, pipeline = self.opened.family, self.original
        asked = {**PROMPT, **SMALL, **self.case.changes, **changes}
        fps = asked.pop("fps", self.opened.preset.values["fps"])
        if family.name == "ltx-video":
            asked["frame_rate"] = fps
        if family.name == "hunyuan-video-1.5":
            pipeline.guider = diffusers.ClassifierFreeGuidance(guidance_scale=asked.pop("guidance_scale"))
            pipeline.tokenizer_max_length = asked.pop("max_sequence_length")
        if self.case.picture:
            assert family.picture is not None
            asked["image"] = picture()
            if type(pipeline).__name__ != family.picture.pipeline_class:
                pipeline = getattr(diffusers, family.picture.pipeline_class).from_pipe(pipeline)
                pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator("cpu").manual_seed(asked.pop("seed"))
        return pipeline(**asked, generator=generator, output_type=output_type).frames


def picture() -> Image.Image:
    """A picture whose halves differ, of another size than the video."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] //= 3
    return Image.fromarray(pixels)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.id)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("family") / request.param.name
    original = build(request.param.name, folder)
    opened = loading.open_pipeline(folder)
    components = {role: opened.load(role, torch.float32) for role in opened.family.roles}
    return Tiny(request.param, original, opened, components)


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
def test_latents_and_frames_equal_those_of_diffusers(tiny: Tiny, guided: bool) -> None:
    changes = {} if guided else tiny.case.unguided
    state = tiny.run(tiny.pipeline(), **changes)
    assert state.latents is not None and state.frames is not None
    assert distance(state.latents, tiny.reference("latent", **changes)) < 1e-4
    frames = np.asarray(tiny.reference("np", **changes))[0] * 255
    assert np.abs(state.frames - frames).max() < 0.51 and state.frames.std() > 3


def test_together_as_alone(tiny: Tiny) -> None:
    """A prompt whose steps are calls for two prompts, which have texts of other lengths, becomes the same video."""
    pipeline = tiny.pipeline()
    asked = {**PROMPT, **SMALL, **tiny.case.changes, "num_inference_steps": 2}
    if tiny.case.picture:
        asked["image"] = picture()
    first, second = (
        resolve_request(tiny.opened.preset.values, None, {**asked, **other})
        for other in ({"seed": 3}, {"prompt": "birds, and many of them, over the sea at night", "seed": 4})
    )
    together = pipeline.run_together([first, second])
    assert together[0].step_seconds == together[1].step_seconds, "they did not share their steps"
    for request, state in zip([first, second], together, strict=True):
        alone = pipeline.run(request).latents
        assert state.error is None and state.latents is not None and alone is not None
        assert distance(state.latents, alone) < 1e-5


def test_the_dtypes_of_an_accelerator_fit_together(tiny: Tiny) -> None:
    """Latents stay float32, and are near those of float32 weights."""
    # Half precision has no CPU kernels for all that a VAE needs.
    loaded = {
        role: tiny.opened.load(role, torch.float32 if name == "float16" else getattr(torch, name))
        for role, name in tiny.opened.family.accelerator_dtypes.items()
    }
    with_dtypes = replace(tiny, components={**tiny.components, **loaded})
    state = with_dtypes.run(with_dtypes.pipeline(), num_inference_steps=2)
    assert state.latents is not None and state.latents.dtype == torch.float32
    exact = tiny.run(tiny.pipeline(), num_inference_steps=2).latents
    assert exact is not None and 1e-5 < distance(state.latents, exact) < 5e-2


def test_latents_on_ranks_equal_those_of_diffusers(tiny: Tiny) -> None:
    ranks = tiny.case.ranks
    # Pinned, as the planner would leave such a small model whole.
    options: dict[str, Any] = {"executor": "simulated", "parallel": Parallel(sp=2)} if ranks == 2 else {}
    compiled = {
        role: compile(tiny.components[role].value, ranks, device="cpu", **options)
        for role in tiny.opened.family.compiled
    }
    encoders = {
        role: compile(tiny.components[role].value, parallel=Parallel(tp=2), executor="simulated", device="cpu")
        for role in tiny.opened.family.encoders
        if tiny.case.encoders and ranks == 2
    }
    state = tiny.run(tiny.pipeline(**compiled, **encoders))
    assert state.latents is not None
    assert distance(state.latents, tiny.reference("latent")) < 1e-4
    for denoiser in compiled.values():
        assert [program.mesh.num_ranks for program in denoiser.programs] == [ranks]
    for encoder in encoders.values():
        assert len(encoder.programs) == 1, "the negative prompt is served by the program of the prompt"


@pytest.mark.parametrize("name", ["wan2.1-i2v", "hunyuan-video"])
def test_generator_on_two_processes(name: str, tmp_path: Path) -> None:
    """Denoiser and encoders run on the same ranks, each divided in its own way; another prompt is no new program."""
    case = next(case for case in CASES if case.name == name)
    folder = tmp_path / name
    tiny = Tiny(case, build(name, folder), loading.open_pipeline(folder), {})
    asked: dict[str, Any] = {**PROMPT, **SMALL, **case.changes}
    if case.picture:
        asked["image"] = tmp_path / "picture.png"
        picture().save(asked["image"])
    with VideoGenerator.from_pretrained(folder, parallel=Parallel(sp=2), executor="mp", device="cpu") as generator:
        video = generator.generate_video(**asked, output_path=tmp_path / "video.mp4", return_latents=True)
        other = {**asked, "prompt": 'birds over the "sea" at night', "num_inference_steps": 2}
        generator.generate_video(**other, save_video=False)
        components = {role: part.value for role, part in generator._pipeline.context.components.items()}
        compiled = {role: value for role, value in components.items() if isinstance(value, CompiledModel)}
        meshes = {role: [program.mesh for program in value.programs] for role, value in compiled.items()}
        assert meshes == {
            **{role: [Parallel(sp=2).mesh] for role in tiny.opened.family.compiled},
            **{role: [Parallel(tp=2).mesh] for role in tiny.opened.family.encoders},
        }
        assert len({id(value._ranks.group) for value in compiled.values()}) == 1
        assert all(role in generator.explain() for role in meshes)
    assert video.latents is not None and video.path == tmp_path / "video.mp4"
    assert distance(video.latents, tiny.reference("latent")) < 1e-4
