"""From a pipeline's source to one that can run: its parts loaded, those that are compiled on one set of ranks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

import fastvideo_ir as ir

from .backends import attention
from .compiler import CompiledModel
from .extension import load_plugins
from .frontends import loading
from .frontends.capture.checks import check_model
from .frontends.families import Family
from .frontends.own_models import OwnModel
from .in_place import compile_in_place
from .parallel import Parallel
from .prompts import samples_pinned
from .ranks import Ranks
from .residency import Residency
from .runtime.pipeline import ComposedPipelineBase
from .runtime.pipeline.own_denoiser import OwnDenoiser
from .runtime.turns import VisitingModule
from .settings import Settings

DENOISER = "transformer"
"""The role that a denoiser of one's own takes."""
DECODER = "vae"
"""The role that makes frames of latents."""
DType = str | torch.dtype
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def open_source(path: str | os.PathLike[str], own: OwnModel | None) -> loading.PipelineFolder:
    """The pipeline, read and checked; no weights are loaded.

    Raises:
        PipelineLoadError: it is no pipeline, or a file is missing or damaged.
        InvalidArgumentError: there is an own model, and the pipeline has no single denoiser that it could replace.
    """
    pipeline = loading.open_pipeline(path, skip=(DENOISER,) if own else ())
    if own is not None:
        compiled = pipeline.family.compiled
        if compiled != (DENOISER,):
            raise ir.errors.InvalidArgumentError(
                f"a {pipeline.family.name} pipeline has the denoisers {', '.join(compiled)}, and one model was given",
                hint="name a pipeline with one denoiser",
            )
        signature = inspect.signature(own.model_class.forward)
        OwnDenoiser(None, _without_self(signature), own.model_class.__name__, pipeline.family)
    return pipeline


def assemble(
    pipeline: loading.PipelineFolder,
    own: OwnModel | None,
    settings: Settings,
    dtypes: Mapping[str, torch.dtype],
    scheduler: Mapping[str, Any] | None,
    pipeline_class: type[ComposedPipelineBase],
    compile_encoders: bool | None,
    residency: Residency,
    compile_vae: bool | None,
) -> tuple[ComposedPipelineBase, ExitStack]:
    """Load and compile.

    Args:
        pipeline: from :func:`open_source`.
        own: takes the denoiser's place.
        settings: of the denoisers; all compiled parts share their ranks.
        dtypes: per role that has weights.
        scheduler: config entries that replace the scheduler's own.
        pipeline_class: the stages.
        compile_encoders: whether the family's encoders run on the ranks too; None is yes where there are several.
        residency: which weights stay on the devices.
        compile_vae: whether the decoder of the VAE is a program on the ranks too; its weights stay there then. None is
            no.

    Returns:
        The pipeline, and what to close when it is not needed any more.

    Raises:
        InvalidArgumentError: ``compile_encoders`` or ``compile_vae`` is something else.
    """
    for option, asked in (("compile_encoders", compile_encoders), ("compile_vae", compile_vae)):
        if asked not in (None, True, False):
            raise ir.errors.InvalidArgumentError(f"{option}={asked!r}: expected True, False or None")
    with_encoders = settings.num_ranks > 1 if compile_encoders is None else compile_encoders
    load_plugins()
    turns, place = residency.turns, settings.device
    components: dict[str, loading.Component] = {}
    ranks = Ranks()
    with ExitStack() as resources:
        for role in sorted(pipeline.family.roles, key=lambda role: role not in pipeline.family.compiled):
            dtype = dtypes.get(role, torch.float32)
            mine = own if role == DENOISER else None
            if mine is not None:
                component = loading.Component(mine.load(dtype), pipeline.configs[role], dtype)
            else:
                component = pipeline.load(role, dtype, scheduler if role == "scheduler" else None)
            in_place = compile_vae is True and role == DECODER
            if isinstance(component.value, torch.nn.Module) and (turns is None or in_place):
                component.value.to(place)
            if role in pipeline.family.compiled:
                name = type(component.value).__name__
                told = replace(residency.settings_for(role, settings), invariant=pipeline.family.text)
                model = CompiledModel(check_model(component.value), told, ranks, turns=turns)
                resources.callback(model.close)
                if settings.parallel is not None:
                    settings.parallel.check_names(model.__signature__, name)
                entry = OwnDenoiser(model, model.__signature__, name, pipeline.family) if mine is not None else model
                component = replace(component, value=entry)
            elif in_place:
                side = _side_settings(residency.settings_for(role, settings), role, None)
                stay = replace(side, offload="none")  # its encoder, which is called as it is, needs the device too
                compile_in_place(component.value, role, pipeline.family.name, stay, ranks, resources, turns, stays=True)
            elif with_encoders and role in pipeline.family.encoders:
                encoder = CompiledModel(
                    _encoder(component.value),
                    _side_settings(residency.settings_for(role, settings), role, Parallel(tp=settings.num_ranks)),
                    ranks,
                    turns=turns,
                )
                resources.callback(encoder.close)
                component = replace(component, value=encoder)
            elif isinstance(component.value, torch.nn.Module) and turns is not None:
                VisitingModule(component.value, place, turns)
            components[role] = component
        return pipeline_class(pipeline, components, place, samples_pinned(settings)), resources.pop_all()


def compiled_parts(components: Mapping[str, loading.Component]) -> dict[str, CompiledModel]:
    """The programs among the components, or in place of their methods, by role."""
    found = {}
    for role, component in components.items():
        value = component.value.model if isinstance(component.value, OwnDenoiser) else component.value
        decode = vars(value).get("decode") if isinstance(value, torch.nn.Module) else None
        for candidate in (value, decode):
            if isinstance(candidate, CompiledModel):
                found[role] = candidate
    return found


def _encoder(module: torch.nn.Module) -> torch.nn.Module:
    """The module, told to keep no keys and values for a next token: nobody reads them, and ranks would gather them."""
    module = check_model(module)
    config: Any = getattr(module, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return module


def _side_settings(settings: Settings, role: str, parallel: Parallel | None) -> Settings:
    """For a module that runs once a prompt: exact, divided as is said, and no code is generated for it.

    What is approximated or chosen for the denoiser does not hold for it, and neither do pins of the denoiser's mesh.
    """
    return replace(
        settings,
        parallel=parallel,
        attention_backend=attention.AUTO,
        quantization=None,
        cache=None,
        invariant=(),
        passes=None,
        dump=settings.dump / role if settings.dump else None,
        codegen="eager",
    )


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def resolve_dtypes(
    family: Family, place: torch.device, asked: DType | Mapping[str, DType] | None
) -> dict[str, torch.dtype]:
    """Dtype per role that has weights; one for all, or one per role, may be asked for.

    Raises:
        UnknownNameError: there is no such role, or no such dtype.
    """
    resolved = {
        role: as_dtype(name) if place.type != "cpu" else torch.float32
        for role, name in family.accelerator_dtypes.items()
    }
    per_role = asked if isinstance(asked, Mapping) else dict.fromkeys(resolved, asked) if asked is not None else {}
    for role, value in per_role.items():
        if role not in resolved:
            raise ir.errors.UnknownNameError("component with a dtype", role, resolved)
        resolved[role] = as_dtype(value)
    return resolved


def one_dtype(
    dtype: DType | Mapping[str, DType] | None, torch_dtype: DType | Mapping[str, DType] | None
) -> DType | Mapping[str, DType] | None:
    """What was given under either name. Raises InvalidArgumentError for both."""
    if dtype is not None and torch_dtype is not None:
        raise ir.errors.InvalidArgumentError(
            "both dtype and torch_dtype were given", hint="they mean the same; give one of them"
        )
    return dtype if dtype is not None else torch_dtype


def as_dtype(value: DType) -> torch.dtype:
    """The dtype that a text such as ``"bfloat16"`` names. Raises UnknownNameError."""
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise ir.errors.UnknownNameError("dtype", name, _DTYPES)
    return _DTYPES[name]
