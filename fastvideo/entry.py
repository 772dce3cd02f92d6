"""``fastvideo.compile``: the way in."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import nn

from fastvideo_ir.errors import InvalidArgumentError

from .backends import attention
from .compiler import CompiledModel
from .extension import load_plugins
from .frontends.capture.checks import check_model
from .parallel import Parallel
from .pipeline_compiler import CompiledPipeline, is_pipeline
from .runtime.devices import bytes_on
from .settings import resolve_settings
from .specialization import check_invariant


@overload
def compile(model: nn.Module, num_gpus: int | None = None, **options: Any) -> CompiledModel: ...


@overload
def compile(model: Any, num_gpus: int | None = None, **options: Any) -> CompiledModel | CompiledPipeline: ...


def compile(  # type: ignore[misc]  # the overloads leave the options to what follows
    model: Any,
    num_gpus: int | None = None,
    *,
    parallel: Parallel | None = None,
    attention_backend: attention.Wish | None = None,
    quantization: str | None = None,
    cache: str | None = None,
    executor: str = "auto",
    device: str | torch.device | None = None,
    passes: str | Sequence[Any] | None = None,
    components: Sequence[str] | None = None,
    invariant: Sequence[str] = (),
    verify: bool = True,
    offload: str = "auto",
    max_memory: int | str | None = None,
    cuda_graphs: bool | None = None,
) -> CompiledModel | CompiledPipeline:
    """Compile a model, or a whole Diffusers pipeline, for inference on ``num_gpus`` ranks.

    Nothing about the model needs to be registered. Of a pipeline, every module is compiled in place: denoisers and
    encoders, and of autoencoders the decoder. A module that cannot be divided runs on one rank, with a warning.

    Capture and planning happen at the first call for each input signature (shapes, dtypes, non-tensor arguments).

    Args:
        model: a module in eval mode, which stays as it is; or a pipeline.
        num_gpus: ranks that work on one call: CUDA devices, or processes on the CPU. None: as ``parallel`` says, or
            one.
        parallel: pins the division of the work; None lets the planner choose it.
        attention_backend: a registered name, or a backend with options such as ``SlidingTile(window=(3, 3, 3))``, that
            must run every attention; None or ``"auto"``: the first exact one that can. The environment variable
            ``FASTVIDEO_ATTENTION_BACKEND`` stands in for None.
        quantization: ``"fp8"`` or ``"int8"``: linear layers run on such codes where that pays and where their error, on
            the first inputs of a signature, is small. None: none does.
        cache: ``"first-block:0.1"``: where what the first block adds to the tokens has changed by less than that
            share since a call that computed all blocks, what the others added then is added again. See
            :meth:`CompiledModel.reset_cache`. None: every call computes all blocks.
        executor: ``"auto"``, ``"local"`` (one rank, here), ``"simulated"`` (all ranks in this process), ``"mp"``.
        device: None is CUDA where there is a GPU, otherwise the CPU.
        passes: ``"default,my-pass{k=2},-other-pass"``, or passes in the order in which they run.
        components: of a pipeline: names of the modules to compile; None is all of them.
        invariant: names of arguments that stay the same over many calls. What follows from them and the weights alone
            is computed when one of their tensors is another than before or was written to, and kept by every rank, for
            the last two sets of them; :meth:`CompiledModel.reset_cache` lets go of it. Writes through ``.data`` or
            NumPy leave no trace and are not seen.
        offload: where unused weights are. ``"none"``: on the device. ``"blocks"``: in the host's memory;
            those of a block are fetched while the block before it runs. ``"sequential"``, of a pipeline: in the host's
            memory but for the module that runs. ``"auto"``: on the device as far as the predicted peak fits there.
        max_memory: what each device may give, in bytes or as in ``"24GiB"``; None is what is free, and on the CPU no
            limit.
        cuda_graphs: whether calls on one GPU are replayed as CUDA graphs, from the second call of a signature on. None:
            where that is measured to be faster, which it is for models of many short kernels.
        verify: check each capture bit for bit against the model, on the first inputs and on others. Without it nothing
            is run to compile, so that approximate passes decide without measuring.

    Raises:
        InvalidArgumentError: an argument that can never work.
        UnknownNameError: a backend, format, pass or executor that does not exist; tells the nearest.
        BackendUnavailableError: the device cannot run the format.

    A call raises DeviceMemoryError where its predicted peak does not fit; the text names settings with which it would.
    """
    load_plugins()
    if not is_pipeline(model):
        if offload == "sequential":
            raise InvalidArgumentError(
                "offload='sequential' lets the modules of a pipeline take turns, and one model has none to take turns "
                "with",
                hint="use offload='blocks'",
            )
        if components is not None:
            raise InvalidArgumentError("components= is for a pipeline; the model is compiled as it is")
        module = check_model(model)
        signature, name = inspect.signature(module.forward), type(module).__name__
        check_invariant(invariant, signature, name)
        if isinstance(parallel, Parallel):
            parallel.check_names(signature, name)
    elif invariant:
        raise InvalidArgumentError("invariant= is for one model; name no arguments for a pipeline")
    settings = resolve_settings(
        num_gpus,
        parallel,
        attention_backend,
        executor,
        device,
        passes,
        invariant,
        verify,
        quantization,
        cache,
        offload,
        max_memory,
        cuda_graphs,
    )
    if not is_pipeline(model) and offload == "blocks" and bytes_on(module, settings.device):
        raise InvalidArgumentError(
            f"offload='blocks' keeps weights in the host's memory, and those of {name} are on {settings.device}",
            hint="leave the model on the CPU",
        )
    if max_memory is None:  # what the weights themselves take there is not free, but theirs
        parts = model.components.values() if is_pipeline(model) else [module]
        held = sum(bytes_on(part, settings.device) for part in parts if isinstance(part, nn.Module))
        settings = replace(settings, memory=settings.memory + held)
    return CompiledPipeline(model, settings, components) if is_pipeline(model) else CompiledModel(module, settings)
