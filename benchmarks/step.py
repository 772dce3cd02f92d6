"""How long one denoising step takes, ours and others' side by side in one run.

    python -m benchmarks.step --workload wan2.1-1.3b/480p --against eager,compile,ours --ranks 1,2

Every timed call gets new latents and a new timestep; medians are printed, with ratios to the first contender, and the
relative error of each contender's output, against float32 with ``--exact``, otherwise against the first contender.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo
from fastvideo import SlidingTile
from fastvideo.step_timing import WARM_UPS, difference, time_calls

from .models import WORKLOADS, Inputs, Workload, build

Call = Callable[[Inputs], Tensor]
SPARSE = (3, 4, 5)
"""Tiles of 6 × 8 × 8 tokens; of HunyuanVideo's 6 × 6 × 10 at 720p they leave 83 % out, as the published windows do."""


@dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        first_call: seconds, compilation included.
        median: seconds per step.
        spread: largest minus smallest, seconds.
        error: ‖output − reference‖ / ‖reference‖ on the same inputs; the reference is the model in float32 where that
            was asked for, otherwise the first contender.
        peak_memory: bytes on rank 0, of the contender's calls alone.
    """

    contender: str
    first_call: float
    median: float
    spread: float
    error: float
    peak_memory: int


def _eager(model: nn.Module, ranks: int) -> tuple[Call, Callable[[], None]]:
    return (lambda inputs: model(**inputs)[0]), (lambda: None)


def _compile(model: nn.Module, ranks: int) -> tuple[Call, Callable[[], None]]:
    compiled = torch.compile(model)
    return (lambda inputs: compiled(**inputs)[0]), torch._dynamo.reset


def _regional(model: Any, ranks: int) -> tuple[Call, Callable[[], None]]:
    """What a user can put together by hand: FlashAttention 3 without masks in place of every attention, and diffusers'
    regional compilation, or torch.compile of the whole model where its class names no blocks."""
    import fa3_fwd_interface  # type: ignore[import-not-found]
    from diffusers.models import attention_dispatch

    attention_dispatch.flash_attn_3_func = fa3_fwd_interface.flash_attn_func
    attention_dispatch._CAN_USE_FLASH_ATTN_3 = True
    dispatched = attention_dispatch._flash_attention_3
    native = F.scaled_dot_product_attention

    def without_mask(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Any:
        return dispatched(query, key, value, **options)

    def flash(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        operands = (operand.transpose(1, 2).contiguous() for operand in (query, key, value))
        return dispatched(*operands).transpose(1, 2)

    names = attention_dispatch.AttentionBackendName
    attention_dispatch._AttentionBackendRegistry._backends[names._FLASH_3] = without_mask
    model.set_attention_backend(names._FLASH_3.value)
    F.scaled_dot_product_attention = flash  # of models that do not ask diffusers' dispatcher
    if getattr(model, "_repeated_blocks", None):
        model.compile_repeated_blocks(fullgraph=True)
        call = model
    else:
        call = torch.compile(model)

    def close() -> None:
        F.scaled_dot_product_attention = native
        model.set_attention_backend(names.NATIVE.value)
        for module in model.modules():
            module._compiled_call_impl = None
        torch._dynamo.reset()

    return (lambda inputs: call(**inputs)[0]), close


def _ours(**settings: Any) -> Callable[..., tuple[Call, Callable[[], None]]]:
    def make(model: nn.Module, ranks: int, verify: bool = True) -> tuple[Call, Callable[[], None]]:
        compiled = fastvideo.compile(model, ranks, verify=verify, **settings)

        def close() -> None:
            print(compiled.explain())
            compiled.close()

        return (lambda inputs: compiled(**inputs)[0]), close

    return make


def _ours_invariant(model: nn.Module, ranks: int, verify: bool = True) -> tuple[Call, Callable[[], None]]:
    """Ours, told that the text stays the same; calls with one text object share what follows from it."""
    texts = [name for name in inspect.signature(model.forward).parameters if name.startswith("encoder_")]
    call, close = _ours(invariant=texts)(model, ranks, verify)
    first: Inputs = {}

    def with_first_text(inputs: Inputs) -> Tensor:
        first.update({name: inputs[name] for name in texts if name in inputs and name not in first})
        return call({**inputs, **first})

    return with_first_text, close


OURS = {
    "ours": _ours(),
    "ours-invariant": _ours_invariant,
    "without-norms": _ours(passes="default,-fuse-norm-rotary,-fuse-modulated-norm"),
    "ours-sdpa": _ours(attention_backend="TORCH_SDPA"),
    "sliding-tile": _ours(attention_backend=SlidingTile(window=SPARSE)),
    "sage": _ours(attention_backend="SAGE_ATTN"),
    "fp8-linear": _ours(quantization="fp8"),
    "fp8": _ours(attention_backend="SAGE_ATTN", quantization="fp8"),
}
"""Ours, exact and with what it may approximate; with any number of ranks."""
CONTENDERS = {"eager": _eager, "compile": _compile, "regional": _regional, **OURS}


KINDS = {
    "quantization": ("_quantize", "_statistics"),
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "GEMM": ("gemm", "nvjet", "cutlass", "cublas", "xmma"),
    "communication": ("nccl",),
    "fused elementwise": ("triton",),
    "copies": ("memcpy", "copy"),
}
"""Kernel kinds by words in kernel names; the first that fits."""


def print_profile(call: Call, inputs: Inputs) -> None:
    """GPU time of one step by kind of kernel, on rank 0, and the kernels that take most."""
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.no_grad(), torch.profiler.profile(activities=[activity]) as profile:
        call(inputs)
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    kinds: Counter[str] = Counter()
    for event in events:
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        kinds[kind] += event.self_device_time_total / 1e3
    print("  " + ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in kinds.most_common()))
    for event in sorted(events, key=lambda e: -e.self_device_time_total)[:14]:
        print(f"  {event.self_device_time_total / 1e3:8.2f} ms {event.count:5d} × {event.key[:90]}")


def measure(
    name: str,
    make: Any,
    model: nn.Module,
    ranks: int,
    calls: list[Inputs],
    reference: Tensor | None,
    profiled: bool,
    warm_ups: int,
) -> tuple[Row, Tensor]:
    """Time one contender; the first entry of ``calls`` is compared, those behind the warm-ups are timed."""
    cuda = torch.cuda.is_available()
    call, close = make(model, ranks)
    times, output = time_calls(call, calls, torch.device("cuda" if cuda else "cpu"), warm_ups)
    if profiled and cuda:
        print_profile(call, calls[0])
    close()
    against = output if reference is None else reference
    if not torch.isfinite(output).all():
        raise SystemExit(f"error: {name} returned values that are not finite")
    error = difference(output, against)
    return Row(name, times.first, times.median, times.spread, error, times.peak_memory or 0), output


def exact_output(workload: Workload, inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What the model with the weights of ``dtype`` computes in float32."""
    model = build(workload, dtype, device).float()
    widened = {k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        output: Tensor = model(**widened)[0]
    return output.float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, default="wan2.1-1.3b/480p")
    parser.add_argument("--against", default="eager,ours")
    parser.add_argument("--ranks", default="1", help="rank counts for ours, e.g. 1,2,4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=WARM_UPS, help="calls before, the one that compiles included")
    parser.add_argument("--no-verify", action="store_true", help="ours trusts its captures; for models of long steps")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--exact", action="store_true", help="measure errors against the same model in float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true", help="print where the GPU time of a step goes")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    workload = WORKLOADS[options.workload]
    model = build(workload, dtype, device)
    random = torch.Generator(device).manual_seed(1)
    calls = [workload.inputs(random, dtype) for _ in range(options.repeats + options.warm_ups)]

    rows: list[Row] = []
    reference = exact_output(workload, calls[0], device, dtype) if options.exact else None
    for name in options.against.split(","):
        for ranks in [int(r) for r in options.ranks.split(",")] if name in OURS else [1]:
            label = f"{name} × {ranks}" if name in OURS else name
            make = partial(OURS[name], verify=not options.no_verify) if name in OURS else CONTENDERS[name]
            row, output = measure(label, make, model, ranks, calls, reference, options.profile, options.warm_ups)
            reference = output if reference is None else reference
            rows.append(row)
            print(f"{row.contender}: {row.median * 1e3:.1f} ms", flush=True)
            if options.json:
                record = {"workload": options.workload, "machine": _machine(), "date": time.strftime("%Y-%m-%d")}
                options.json.write_text(json.dumps(record | {"rows": [asdict(row) for row in rows]}, indent=2) + "\n")

    print(f"\n{options.workload}, {options.dtype}, {_machine()}")
    print(f"{'':14s}{'first call':>12s}{'median':>12s}{'spread':>10s}{'ratio':>8s}{'error':>12s}{'peak GiB':>10s}")
    for row in rows:
        print(
            f"{row.contender:14s}{row.first_call:10.1f} s{row.median * 1e3:9.1f} ms{row.spread * 1e3:7.1f} ms"
            f"{rows[0].median / row.median:8.3f}{row.error:12.2e}{row.peak_memory / 2**30:10.1f}"
        )


def _machine() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
