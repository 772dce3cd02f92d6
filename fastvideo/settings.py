"""What arguments and environment ask for, resolved once and passed down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fastvideo_ir as ir
from fastvideo_ir.errors import BackendUnavailableError, InvalidArgumentError, UnknownNameError

from .backends import attention, codegen
from .backends.fused import quantization as quantization_formats
from .kernel_times import KernelTimes
from .parallel import Parallel
from .passes.cache_blocks import CacheBlocks
from .passes.offload_params import OffloadParams
from .passes.pipelines import Target, resolve_pipeline
from .passes.planner.cost import Hardware
from .passes.planner.hardware import AUTO, named_hardware
from .passes.quantize_linear import QuantizeLinear
from .passes.shard_params import ShardParams
from .passes.split_invariant import SplitInvariant
from .runtime.devices import check_cpu_processes, free_memory, resolve_device

BACKEND_VARIABLE = "FASTVIDEO_ATTENTION_BACKEND"
DUMP_VARIABLE = "FASTVIDEO_DUMP"
CODEGEN_VARIABLE = "FASTVIDEO_CODEGEN"
CACHE_VARIABLE = "FASTVIDEO_CACHE"
CACHE_DIRECTORY_VARIABLE = "FASTVIDEO_CACHE_DIR"
FIRST_BLOCK = "first-block"
OFFLOADS = ("auto", "none", "sequential", "blocks")
EXECUTORS = ("auto", "local", "simulated", "mp")


@dataclass(frozen=True)
class Settings:
    """Everything that a compile was asked for.

    Attributes:
        num_ranks: ranks in all.
        parallel: the pinned mesh, or None.
        attention_backend: a registered name, a backend with its options, or ``auto``.
        quantization: format of linear layers, or None.
        cache: threshold of first-block caching, or None.
        executor: ``local``, ``simulated`` or ``mp``.
        device: of rank 0.
        passes: None for the default pipeline, else as given.
        invariant: arguments that stay the same over many calls.
        verify: whether captures are checked against the model.
        dump: where passes write their programs, or None.
        codegen: who makes the code of blocks: ``eager`` (torch ops one by one) or ``inductor`` (fused kernels).
        cache_directory: where captures, plans and times of kernels are kept for later processes, or None.
        fastest: measures attention backends, on GPUs; None elsewhere.
        offload: ``auto``, ``none``, ``sequential`` or ``blocks``.
        memory: bytes of one device that may be taken; 0 for no limit.
        cuda_graphs: whether calls on one GPU are CUDA graphs; None: where that is measured to be faster.
    """

    num_ranks: int
    parallel: Parallel | None
    attention_backend: attention.Wish
    quantization: str | None
    cache: float | None
    executor: str
    device: torch.device
    passes: str | Sequence[Any] | None
    invariant: tuple[str, ...]
    verify: bool
    dump: Path | None
    codegen: str
    cache_directory: Path | None = None
    fastest: attention.Fastest | None = field(default=None, repr=False, compare=False)
    offload: str = "auto"
    memory: int = 0
    cuda_graphs: bool | None = None

    @property
    def hardware(self) -> Hardware:
        """What the planner assumes: this machine's GPU where it is known, otherwise an H200."""
        return named_hardware(AUTO)

    @property
    def target(self) -> Target:
        return Target(
            self.num_ranks,
            self.device.type,
            self.attention_backend,
            quantization=self.quantization,
            cache=self.cache,
            invariant=self.invariant,
            hardware=self.hardware,
            fastest=self.fastest,
            shard_params=self.parallel.shard_params if self.parallel else None,
            offload_params=offload_params(self.offload),
            memory=self.memory,
        )


def resolve_settings(
    num_gpus: int | None,
    parallel: Parallel | None,
    attention_backend: attention.Wish | None,
    executor: str,
    device: str | torch.device | None,
    passes: str | Sequence[Any] | None,
    invariant: Sequence[str],
    verify: bool,
    quantization: str | None = None,
    cache: str | None = None,
    offload: str = "auto",
    max_memory: int | str | None = None,
    cuda_graphs: bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Check and complete what the user asked for.

    Raises:
        UnknownNameError: a backend, format, executor or pass that does not exist.
        InvalidArgumentError: counts that do not fit each other or the machine, settings that contradict each other.
        BackendUnavailableError: the device cannot run the format.
    """
    if parallel is not None and not isinstance(parallel, Parallel):
        raise InvalidArgumentError(f"parallel={parallel!r} is not a Parallel; expected e.g. Parallel(sp=4)")
    if executor not in EXECUTORS:
        raise UnknownNameError("executor", executor, EXECUTORS)
    offload_params(offload)  # refuses an unknown one
    num_ranks = num_gpus if num_gpus is not None else parallel.num_ranks if parallel else 1
    resolve_device("cpu", num_ranks)  # refuses a count that is none
    if parallel is not None and parallel.num_ranks != num_ranks:
        raise InvalidArgumentError(
            f"{parallel} is for {parallel.num_ranks} ranks, but num_gpus={num_ranks}", hint="leave num_gpus out"
        )
    if executor == "auto":
        executor = "local" if num_ranks == 1 else "mp"
    if executor == "local" and num_ranks > 1:
        raise InvalidArgumentError(f"executor='local' has one rank, but {num_ranks} were asked for")
    if executor == "mp" and num_ranks == 1:
        raise InvalidArgumentError("executor='mp' needs num_gpus of at least 2")
    backend = attention_backend or environment.get(BACKEND_VARIABLE) or attention.AUTO
    asked = attention.wished(backend)
    if asked is not None:
        backend = asked.configured(environment)
    limit = None if max_memory is None else as_bytes(max_memory)
    dump = _dump_directory(environment)
    place = resolve_device(device, 1 if executor == "simulated" else num_ranks)
    if place.type == "cpu" and executor == "mp":
        check_cpu_processes(num_ranks)
    memory = free_memory(place, 1 if executor == "simulated" else num_ranks) if limit is None else limit
    generator = environment.get(CODEGEN_VARIABLE) or ("inductor" if place.type == "cuda" else "eager")
    codegen.named(generator)
    if quantization is not None:
        _refuse_quantization(quantization, place)
    directory = _cache_directory(environment)
    settings = Settings(
        num_ranks=num_ranks,
        parallel=parallel,
        attention_backend=backend,
        quantization=quantization,
        cache=None if cache is None else _cache_threshold(cache),
        executor=executor,
        device=place,
        passes=passes,
        invariant=tuple(invariant),
        verify=verify,
        dump=dump,
        codegen=generator,
        cache_directory=directory,
        fastest=attention.on_this_gpu(KernelTimes(directory)) if place.type == "cuda" else None,
        offload=offload,
        memory=memory,
        cuda_graphs=_cuda_graphs(cuda_graphs, place, num_ranks),
    )
    steps = resolve_pipeline(passes, settings.target)  # refuses unknown names now, not at the first call
    wanted: dict[str, tuple[object, type[ir.Pass]]] = {
        "quantization": (quantization, QuantizeLinear),
        "cache": (cache, CacheBlocks),
        "invariant": (tuple(invariant) or None, SplitInvariant),
        "offload": ("blocks" if offload == "blocks" else None, OffloadParams),
        "shard_params": ((parallel is not None and parallel.shard_params) or None, ShardParams),
    }
    for name, (value, step) in wanted.items():
        if value is not None and not any(isinstance(given, step) for given in steps):
            raise InvalidArgumentError(
                f"{name}={value!r} has no effect: the passes that were given lack {step.name!r}",
                hint=f"start passes from 'default', or leave {name} out",
            )
    return settings


def offload_params(offload: str) -> bool | None:
    """Whether a model's params are fetched by blocks; None: where memory is the limit. Raises UnknownNameError."""
    if offload not in OFFLOADS:
        raise UnknownNameError("offload", str(offload), OFFLOADS)
    return {"auto": None, "blocks": True}.get(offload, False)


def _cuda_graphs(wish: bool | None, place: torch.device, num_ranks: int) -> bool | None:
    if wish is not None and not isinstance(wish, bool):
        raise InvalidArgumentError(f"cuda_graphs={wish!r} is neither True, False nor None")
    if wish and (place.type != "cuda" or num_ranks > 1):
        where = f"{num_ranks} ranks" if num_ranks > 1 else f"the device {place}"
        raise InvalidArgumentError(f"cuda_graphs=True is for one rank on a GPU, not for {where}")
    return wish


def as_bytes(value: int | str) -> int:
    """``24000000000``, ``"24GB"`` or ``"22.5GiB"`` as bytes.

    Raises:
        InvalidArgumentError: it is no positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(value), re.IGNORECASE)
    size = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ") if match else 0.0
    if isinstance(value, bool) or size < 1:
        raise InvalidArgumentError(f"max_memory={value!r} is no size; expected bytes, or a text such as '24GiB'")
    return int(size)


def _cache_threshold(text: str) -> float:
    name, _, number = text.partition(":")
    if name != FIRST_BLOCK:
        raise UnknownNameError("cache", name, [FIRST_BLOCK])
    try:
        threshold = float(number)
    except ValueError:
        threshold = -1.0
    if not 0 < threshold < 1:
        raise InvalidArgumentError(
            f"cache={text!r} has no threshold between 0 and 1; expected e.g. '{FIRST_BLOCK}:0.1'"
        )
    return threshold


def _refuse_quantization(name: str, place: torch.device) -> None:
    reason = quantization_formats.refusal(quantization_formats.named(name), place.type)
    if reason is not None:
        raise BackendUnavailableError(f"quantization={name!r} cannot run: {reason}")


def _cache_directory(environment: Mapping[str, str]) -> Path | None:
    """Where captures and plans are kept; made when the first one is."""
    wish = environment.get(CACHE_VARIABLE, "1")
    if wish not in ("0", "1"):
        raise InvalidArgumentError(f"{CACHE_VARIABLE}={wish!r} is neither 0 nor 1")
    if wish == "0":
        return None
    named = environment.get(CACHE_DIRECTORY_VARIABLE)
    try:
        return Path(named or Path("~", ".cache", "fastvideo")).expanduser()
    except RuntimeError:  # a user without a home
        return None


def _dump_directory(environment: Mapping[str, str]) -> Path | None:
    """Where passes write their programs, made now, so that a wrong path is known before anything runs."""
    text = environment.get(DUMP_VARIABLE)
    if not text:
        return None
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"{DUMP_VARIABLE}={text!r} is no folder that can be written: {error}") from error
    if not os.access(folder, os.W_OK):
        raise InvalidArgumentError(f"{DUMP_VARIABLE}={text!r} cannot be written")
    return folder
