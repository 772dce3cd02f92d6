"""Which backend is the fastest for a site on this GPU: measured once, and kept.

Times of attention grow with the batch and the heads for all kernels alike, so that sites which differ in these alone
share one measurement, of as many heads as take a few milliseconds.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import torch
from torch import Tensor

from fastvideo_ir.ops.attention import attention, attention_flop_count, is_lengths

from .base import AttentionBackend, AttentionSite

Seconds: TypeAlias = dict[str, float]
"""By name of a backend; infinite where its kernel failed."""
_FLOPS = 4e12
"""Of one measured call at most, where that leaves a head: some milliseconds on a large GPU."""
_WARM_UP, _CALLS = 2, 5
_CHECKED_QUERIES = 64
_LARGEST_ERROR = 0.03
"""Of a kernel in half precision, ‖result − exact‖ / ‖exact‖; what is wrong is off by far more."""
_PACKAGES = ("torch", "flash-attn", "flash-attn-3", "fa3-fwd", "flash-attn-4")


@dataclass(frozen=True)
class Fastest:
    """Seconds of backends by site.

    Attributes:
        timer: how long a backend takes for a site, in seconds; infinite where its kernel fails.
        machine: what else times depend on: the GPU and the versions of what runs on it.
        kept: measurements by key. What outlives the process is up to who gives it.
    """

    timer: Callable[[AttentionBackend, AttentionSite], float]
    machine: str
    kept: MutableMapping[str, Seconds] = field(default_factory=dict)

    def seconds(self, site: AttentionSite, backends: Sequence[AttentionBackend]) -> Seconds:
        """Of each of ``backends``; those that are not kept are measured now."""
        key = self.key(site)
        known = dict(self.kept.get(key, {}))
        missing = [backend for backend in backends if backend.name not in known]
        if missing:
            known |= {backend.name: self.timer(backend, site) for backend in missing}
            self.kept[key] = known
        return {backend.name: known[backend.name] for backend in backends}

    def key(self, site: AttentionSite) -> str:
        """Equal for sites that every kernel takes alike, but for batch and heads."""
        group = site.query.shape[1] // site.key.shape[1]
        sizes = f"{site.query.shape[2]}x{site.key.shape[2]} {site.head_dim}/{site.value.shape[3]} group {group}"
        mask = "no mask" if site.mask is None else f"mask {site.mask.dtype} {_broadcast(site.mask.shape)}"
        mask = mask if site.lengths is None else "lengths"
        flags = " ".join(name for name, on in (("causal", site.causal), ("ring", site.ring)) if on)
        return f"{self.machine} | {site.dtype} {sizes} | {mask} {flags}".strip()


def on_this_gpu(kept: MutableMapping[str, Seconds]) -> Fastest:
    """Measures on the current CUDA device."""
    return Fastest(time_on_gpu, f"{torch.cuda.get_device_name()} {_versions()}", kept)


def measured_site(site: AttentionSite) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of queries, keys and values that are timed for ``site``: one sample, and few heads where they are long."""
    group = site.query.shape[1] // site.key.shape[1]
    q, k, v = ((1, heads, *kind.shape[2:]) for heads, kind in ((group, site.query), (1, site.key), (1, site.value)))
    groups = max(1, min(site.key.shape[1], int(_FLOPS // max(1, attention_flop_count(q, k, v)))))
    return (1, group * groups, *q[2:]), (1, groups, *k[2:]), (1, groups, *v[2:])


def time_on_gpu(backend: AttentionBackend, site: AttentionSite) -> float:
    """Median seconds of some calls on random values, laid out as models lay them out.

    Infinite for a kernel that raises, or whose result is not softmax attention on these values.
    """
    random = torch.Generator("cuda").manual_seed(0)

    def normal(shape: tuple[int, ...]) -> Tensor:
        batch, heads, tokens, channels = shape
        drawn = torch.randn((batch, tokens, heads, channels), generator=random, device="cuda", dtype=torch.float32)
        return drawn.to(site.dtype).transpose(1, 2)

    shapes = measured_site(site)
    try:
        q, k, v = map(normal, shapes)
        mask = _lengths(site) if site.lengths else _mask(site, shapes[0][1]) if site.mask else None

        def call() -> Tensor:
            return backend.run(q, k, v, mask, site.scale, site.causal)

        with warnings.catch_warnings():  # PyTorch tells at length why a kernel of its own does not fit
            warnings.simplefilter("ignore")
            for _ in range(_WARM_UP):
                out = call()
            if not _is_attention(out, q, k, v, mask, site):
                return math.inf
            return statistics.median(_seconds(call) for _ in range(_CALLS))
    except RuntimeError:  # the kernel refuses what it was thought to take, or memory is short
        return math.inf


def _seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _is_attention(out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, site: AttentionSite) -> bool:
    """Whether the first queries of ``out`` are right, by softmax attention in fp32."""
    some = _CHECKED_QUERIES
    seen = some if site.causal else k.shape[2]
    parts = (q[:, :, :some], k[:, :, :seen], v[:, :, :seen])
    rows = mask if mask is None or is_lengths(mask) or mask.shape[2] == 1 else mask[:, :, :some]
    wide = rows.float() if rows is not None and rows.is_floating_point() else rows
    exact = attention(*(part.float() for part in parts), wide, site.scale, site.causal)
    error = (out[:, :, :some].float() - exact).norm() / exact.norm()
    return bool(error < _LARGEST_ERROR)


def _lengths(site: AttentionSite) -> Tensor:
    """Most of the keys are seen."""
    keys = site.key.shape[2]
    return torch.full((1,), keys - keys // 8, dtype=torch.int32, device="cuda")


def _mask(site: AttentionSite, heads: int) -> Tensor:
    """Everybody sees everything; in the mask's own type and shape, but for batch and heads."""
    assert site.mask is not None
    batched = (1,) * (4 - len(site.mask.shape)) + site.mask.shape
    shape = (1, 1 if batched[1] == 1 else heads, *batched[2:])
    make = torch.ones if site.mask.dtype is torch.bool else torch.zeros
    return make(shape, dtype=site.mask.dtype, device="cuda")


def _broadcast(shape: tuple[int, ...]) -> str:
    """Which dims of a mask are there; sizes are those of queries and keys."""
    return "".join("1" if size == 1 else "n" for size in (1,) * (4 - len(shape)) + shape)


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
