"""The user's entry: a pipeline folder in, videos out."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from types import TracebackType
from typing import Any, Self, overload

import torch

import fastvideo_ir as ir

from .assembly import DType, assemble, compiled_parts, one_dtype, open_source, resolve_dtypes
from .backends.attention import Wish
from .compiler import CompiledModel
from .frontends import loading
from .frontends.own_models import DEFAULT_PIPELINE, OwnModel, registered_model
from .loras import LoraMethods, LoraStack
from .parallel import Parallel
from .pipeline_config import PipelineConfig
from .prompts import describe, groups, prompts_of
from .residency import resolve_residency
from .runtime.pipeline import ComposedPipeline, ComposedPipelineBase, GenerationRequest, GenerationState, StepCallback
from .runtime.pipeline.metadata import package_versions
from .runtime.pipeline.output_file import OutputPlace, check_output
from .runtime.pipeline.output_file import save_video as save_frames
from .runtime.pipeline.progress import progress_view
from .runtime.pipeline.steps import check_callback
from .runtime.pipeline.validate import validate_request
from .sampling_param import SamplingParam, resolve_request
from .settings import resolve_settings
from .video_result import VideoResult

_LOG = logging.getLogger(__name__)
PathOrId = str | os.PathLike[str]
_VIDEO_FIELDS = ("video", "video_path")  # what a caller may name the video that is to be changed


class VideoGenerator(LoraMethods):
    """Makes videos with one loaded pipeline, from :meth:`from_pretrained` or with a model of one's own.

    A context manager.
    Calls from several threads run one after another.
    """

    def __init__(
        self,
        model_class: type[torch.nn.Module],
        *,
        model_weights: PathOrId | None = None,
        model_config: Mapping[str, Any] | None = None,
        pipeline: PathOrId = DEFAULT_PIPELINE,
        **options: Any,
    ) -> None:
        """A denoiser of one's own, with the other parts of a pipeline.

        Args:
            model_class: an ``nn.Module``; its forward takes what the pipeline's own denoiser takes, or some of it.
            model_weights: a safetensors file, or a folder of them; None leaves the weights as the class makes them.
            model_config: keyword arguments of the class.
            pipeline: folder in Diffusers layout, or hub id, of the pipeline whose other parts are used.
            options: as for :meth:`from_pretrained`.

        Raises:
            As :meth:`from_pretrained`.
        """
        own = OwnModel.of(model_class, model_weights, model_config, pipeline)
        config, pipeline_class = options.pop("config", None), options.pop("pipeline_class", ComposedPipeline)
        if "torch_dtype" in options:
            options["dtype"] = one_dtype(options.get("dtype"), options.pop("torch_dtype"))
        _refuse_unknown(options.keys() - {field.name for field in fields(PipelineConfig)})
        self._open(pipeline, own, PipelineConfig(**options), config, pipeline_class)

    @classmethod
    def from_pretrained(
        cls,
        path: PathOrId,
        *,
        num_gpus: int | None = None,
        parallel: Parallel | None = None,
        attention_backend: Wish | None = None,
        quantization: str | None = None,
        cache: str | None = None,
        executor: str | None = None,
        device: str | torch.device | None = None,
        dtype: DType | Mapping[str, DType] | None = None,
        torch_dtype: DType | Mapping[str, DType] | None = None,
        passes: Any = None,
        flow_shift: float | None = None,
        compile_encoders: bool | None = None,
        compile_vae: bool | None = None,
        offload: str | None = None,
        max_memory: int | str | None = None,
        cuda_graphs: bool | None = None,
        config: PipelineConfig | PathOrId | None = None,
        pipeline_class: type[ComposedPipelineBase] = ComposedPipeline,
        **unknown: Any,
    ) -> Self:
        """Load a pipeline and compile its transformer, and on several ranks its encoders.

        Args:
            path: folder in Diffusers layout, hub id ``owner/name``, or a name given to :func:`register_model`.
            num_gpus: devices that work on one video; on CPU, processes.
            parallel: pins the mesh; None lets the planner choose.
            attention_backend: name of an attention backend that must be used, or one with options (``SlidingTile``).
            quantization, executor, passes, max_memory, cuda_graphs: as for :func:`fastvideo.compile`.
            cache: as for :func:`fastvideo.compile`; every generation starts with an empty one.
            device: None is CUDA where there is one, otherwise CPU.
            dtype: of the weights, one for all or one per component, such as ``{"vae": "float32"}``. The default
                is what the family was made for on CUDA, and float32 on CPU.
            torch_dtype: the same under the name Diffusers has for it.
            flow_shift: replaces the flow shift that is best for this checkpoint, or else the scheduler's own.
            compile_encoders: whether the text and image encoders run on the ranks too, divided by tensor parallelism.
                None is yes on several ranks, and no on one, where compiling them costs more than it gains.
            compile_vae: whether the VAE decodes on the ranks too, divided by the rows of the picture. None is no:
                for one video, compiling it takes longer than it saves.
            offload: as for :func:`fastvideo.compile`; with ``"sequential"`` and ``"blocks"`` the components take turns.
            config: any of these as a :class:`PipelineConfig`, or a YAML or JSON file of one; keywords go before it.
            pipeline_class: the stages; a subclass of ``ComposedPipelineBase`` has its own.

        Raises:
            PipelineLoadError: no pipeline, or a file of it is missing, truncated or damaged; names the file.
            InvalidArgumentError: an argument that cannot work, such as more GPUs than the machine has.
            UnknownNameError: an argument, component or backend of this name does not exist.
            DeviceMemoryError: the default request cannot fit into a device; names settings with which it would.
        """
        _refuse_unknown(unknown)
        generator = cls.__new__(cls)
        own = registered_model(path)
        given = PipelineConfig(
            num_gpus=num_gpus,
            parallel=parallel,
            attention_backend=attention_backend,
            quantization=quantization,
            cache=cache,
            executor=executor,
            device=device,
            dtype=one_dtype(dtype, torch_dtype),
            passes=passes,
            flow_shift=flow_shift,
            compile_encoders=compile_encoders,
            compile_vae=compile_vae,
            offload=offload,
            max_memory=max_memory,
            cuda_graphs=cuda_graphs,
        )
        generator._open(path if own is None else own.pipeline, own, given, config, pipeline_class)
        return generator

    def _open(
        self,
        path: PathOrId,
        own: OwnModel | None,
        given: PipelineConfig,
        config: PipelineConfig | PathOrId | None,
        pipeline_class: type[ComposedPipelineBase],
    ) -> None:
        if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, ComposedPipelineBase)):
            raise ir.errors.InvalidArgumentError(
                f"pipeline_class must be a subclass of ComposedPipelineBase, got {pipeline_class!r}",
                hint="see fastvideo.pipeline",
            )
        if config is not None:
            stored = config if isinstance(config, PipelineConfig) else PipelineConfig.load(config)
            given = PipelineConfig(**{**stored.given(), **given.given()})
        settings = resolve_settings(
            given.num_gpus,
            given.parallel,
            given.attention_backend,
            given.executor or "auto",
            given.device,
            given.passes,
            (),
            True,
            given.quantization,
            given.cache,
            given.offload or "auto",
            given.max_memory,
            given.cuda_graphs,
        )
        pipeline = open_source(path, own)
        dtypes = resolve_dtypes(pipeline.family, settings.device, given.dtype)
        scheduler = pipeline.scheduler_overrides(given.flow_shift)
        residency = resolve_residency(pipeline, settings, dtypes, own=own is not None)
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._pipeline, self._resources = assemble(
            pipeline,
            own,
            settings,
            dtypes,
            scheduler,
            pipeline_class,
            given.compile_encoders,
            residency,
            given.compile_vae,
        )
        self._loras = LoraStack.of(self._pipeline.context)

    @overload
    def generate_video(self, prompt: str, **options: Any) -> VideoResult: ...

    @overload
    def generate_video(self, prompt: Sequence[str], **options: Any) -> list[VideoResult]: ...

    @overload
    def generate_video(self, prompt: None = None, **options: Any) -> VideoResult | list[VideoResult]: ...

    def generate_video(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        sampling_param: SamplingParam | None = None,
        prompt_path: PathOrId | None = None,
        output_path: PathOrId = "outputs",
        output_format: str | None = None,
        save_video: bool = True,
        return_frames: bool = False,
        return_latents: bool = False,
        progress: bool = True,
        on_step: StepCallback | None = None,
        **overrides: Any,
    ) -> VideoResult | list[VideoResult]:
        """Generate one video, or one for each of several prompts.

        Args:
            prompt: what to show. A list of texts makes a list of videos, on several ranks several at a time.
            sampling_param: parameters; keywords go before them.
            prompt_path: a text file that holds the prompt, in place of ``prompt``; several lines are several prompts.
            output_path: folder for the file, or its name if it ends in ``.mp4``, ``.gif`` or ``.png``. A file that
                exists is not written over: the new one gets a number.
            output_format: ``"mp4"``, ``"gif"``, or ``"png"`` for a folder of frames. None is what the ending of
                ``output_path`` says, and mp4 for a folder.
            save_video: whether to write a file.
            return_frames: whether to keep the frames in the result.
            return_latents: whether to keep the denoised latents in the result.
            progress: whether to show a progress bar, if stderr is a terminal.
            on_step: called with a :class:`StepInfo` after each denoising step; the generation is cancelled if it
                returns False.
            overrides: fields of :class:`SamplingParam`, such as ``height``, ``num_frames``, ``seed``.

        Returns:
            One result; a list of them, in order, for a list or a file of several prompts. Then the failure of one
            prompt is reported in its result's ``error`` and in the log, and the others are made all the same.

        Raises:
            InvalidArgumentError: the pipeline cannot serve this request, or one of these; nothing was computed.
            UnknownNameError: a keyword is no sampling parameter; names the nearest.
            GenerationCancelledError: ``on_step`` returned False, also where there are more prompts.
            FastVideoError: a stage failed; a lost rank is a WorkerError.
        """
        context = self._pipeline.context
        prompts, is_several = prompts_of(prompt, prompt_path)
        check_callback(on_step)
        requests = _checked(context.pipeline, prompts, sampling_param, overrides)
        places = [check_output(output_path, output_format, r.num_frames) if save_video else None for r in requests]
        results: list[VideoResult] = []
        for group in groups(len(requests), self._settings):
            for number, state in zip(group, self._run([requests[n] for n in group], progress, on_step), strict=True):
                try:
                    made = self._result(state, places[number], return_frames, return_latents)
                except Exception as error:
                    if not is_several:
                        raise
                    _LOG.error("prompt %d of %d failed: %s: %s", number + 1, len(requests), type(error).__name__, error)
                    made = VideoResult(state.request.prompt, state.request.seed, state.request.fps, error=error)
                results.append(made)
        return results if is_several else results[0]

    def _run(
        self, requests: Sequence[GenerationRequest], progress: bool, on_step: StepCallback | None
    ) -> list[GenerationState]:
        with self._lock, progress_view(progress) as view:
            self._refuse_closed()
            return self._pipeline.run_together(requests, view, on_step)

    def _result(
        self, state: GenerationState, place: OutputPlace | None, return_frames: bool, return_latents: bool
    ) -> VideoResult:
        """What a generation has made, saved; raises what it failed with."""
        if state.error is not None:
            raise state.error
        assert state.frames is not None
        request = state.request
        saved = (
            save_frames(state.frames, request.fps, request.prompt, place, self._metadata(request)) if place else None
        )
        keep_frames = return_frames or (saved is not None and saved.path is None)
        return VideoResult(
            prompt=request.prompt,
            seed=request.seed,
            fps=request.fps,
            path=saved.path if saved else None,
            save_error=saved.error if saved else None,
            frames=state.frames if keep_frames else None,
            latents=state.latents if return_latents else None,
            seconds=state.seconds,
            step_seconds=tuple(state.step_seconds),
        )

    def _metadata(self, request: GenerationRequest) -> dict[str, Any]:
        """What a file says of itself; enough to make the same video again."""
        asked = {name: value for name, value in vars(request).items() if value is not None}
        if isinstance(request.image, str | os.PathLike):
            asked["image"] = os.fspath(request.image)
        elif request.image is not None:
            asked["image"] = f"a {type(request.image).__name__}"
        asked |= {"loras": self.loras} if self.loras else {}
        return {**asked, "model": str(self._pipeline.context.pipeline.path), "versions": package_versions()}

    @staticmethod
    def check_request(
        path: PathOrId,
        prompt: str | Sequence[str] | None = None,
        *,
        sampling_param: SamplingParam | None = None,
        prompt_path: PathOrId | None = None,
        **overrides: Any,
    ) -> None:
        """See whether a pipeline can serve a request, by its configs; loads and downloads no weights.

        Raises:
            As :meth:`from_pretrained` for the folder, and as :meth:`generate_video` for the request.
        """
        pipeline = loading.open_pipeline(path, weights=False)
        _checked(pipeline, prompts_of(prompt, prompt_path)[0], sampling_param, overrides)

    @property
    def compiled_models(self) -> list[CompiledModel]:
        """The compiled components: the denoiser, encoders, and the decoder of the VAE."""
        return list(compiled_parts(self._pipeline.context.components).values())

    def explain(self) -> str:
        """What the compiler did with each compiled component."""
        compiled = compiled_parts(self._pipeline.context.components)
        parts = [f"{role}\n{model.explain()}" for role, model in compiled.items()]
        return "\n\n".join([*parts, *([describe(self._settings)] if self._settings.num_ranks > 1 else [])])

    def close(self) -> None:
        """End the ranks and free their memory; waits for a running generation. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ir.errors.InvalidArgumentError(
                "this generator is closed", hint="make a new one with VideoGenerator.from_pretrained"
            )


def _checked(
    pipeline: loading.PipelineFolder,
    prompts: Sequence[str | None],
    sampling_param: SamplingParam | None,
    overrides: Mapping[str, Any],
) -> list[GenerationRequest]:
    """Requests that the pipeline can serve. Raises InvalidArgumentError, which tells which prompt of several it is."""
    for name in _VIDEO_FIELDS:
        if name in overrides:
            raise ir.errors.InvalidArgumentError(
                f"{pipeline.family.name} makes videos from text{' and a picture' if pipeline.family.picture else ''}, "
                f"not from a video, got {name}=…",
                hint="leave it out; no family does video-to-video",
            )
    requests = []
    for number, prompt in enumerate(prompts, 1):
        request = resolve_request(pipeline.preset.values, sampling_param, {"prompt": prompt, **overrides})
        try:
            validate_request(request, pipeline)
        except ir.errors.InvalidArgumentError as error:
            if number == 1:  # what is wrong with all of them is found with the first
                raise
            which = f"prompt {number} of {len(prompts)}: {error.message}"
            raise ir.errors.InvalidArgumentError(which, hint=error.hint) from error
        requests.append(request)
    return requests


def _refuse_unknown(unknown: Collection[str]) -> None:
    parameters = inspect.signature(VideoGenerator.from_pretrained).parameters
    known = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    for name in unknown:
        raise ir.errors.UnknownNameError("argument of from_pretrained", name, known)
