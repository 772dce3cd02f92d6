"""Fused norm kernels: their error beside eager's, then their time and bandwidth beside eager and Inductor, in one run.

    python -m benchmarks.norms --json norms.json

*rows held* is Inductor's code for the same ops with each row held in registers, as the kernels hold it: what could be
had without kernels of our own. *bytes* is what every operand and result takes, moved once at the rate of a copy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvideo.backends import fused

SIZES = ((32760, 1536), (32760, 5120), (119056, 3072))
"""Tokens and channels."""
HEAD_DIM = 128
HALF = torch.bfloat16
Call = Callable[..., Any]


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (F.layer_norm(wide(x), x.shape[-1:], eps=1e-6) * scale + shift).type_as(x)


def modulate_fused(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return fused.modulated_norm_op(x, None, None, scale, shift, 1e-6, False, x.dtype)


def gate_and_modulate(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    total = (wide(x) + y * gate).type_as(x)
    return total, modulate(total, scale, shift)


def gate_and_modulate_fused(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    return fused.add_norm_op(x, y, gate, None, None, scale, shift, 1e-6, False, x.dtype, x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.stack(turned, -1).flatten(-2).type_as(x)


def joint_rotary(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(F.rms_norm(x, x.shape[-1:], weight, 1e-6).unflatten(-1, (-1, HEAD_DIM)), cos, sin)


def joint_rotary_fused(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.unflatten(-1, (-1, HEAD_DIM))
    return fused.norm_rotary_op(heads, cos, sin, weight, None, "rms", True, 1e-6, True, x.dtype)


def head_rotary(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.unflatten(-1, (-1, HEAD_DIM))
    return rotate(F.rms_norm(heads, (HEAD_DIM,), weight[:HEAD_DIM], 1e-6), cos, sin)


def head_rotary_fused(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.unflatten(-1, (-1, HEAD_DIM))
    return fused.norm_rotary_op(heads, cos, sin, weight[:HEAD_DIM], None, "rms", False, 1e-6, True, x.dtype)


CASES: dict[str, tuple[Call, Call]] = {
    "norm, scale, shift": (modulate, modulate_fused),
    "gated sum, norm, scale, shift": (gate_and_modulate, gate_and_modulate_fused),
    "norm over heads, rotary": (joint_rotary, joint_rotary_fused),
    "norm per head, rotary": (head_rotary, head_rotary_fused),
}
"""What a model writes, and the fused op, by name."""


def wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def operands(case: Call, tokens: int, width: int, device: str) -> list[Tensor]:
    def normal(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    rows = [normal(1, tokens, width) for _ in range(2)]
    modulation = [normal(1, 6, width, dtype=torch.float32)[:, number : number + 1] for number in range(3)]
    if case is modulate:
        return [rows[0], *modulation[:2]]
    if case is gate_and_modulate:
        return [*rows, *modulation]
    angles = torch.rand(1, tokens, 1, HEAD_DIM // 2, device=device) * 6
    return [rows[0], normal(width), angles.cos(), angles.sin()]


def flat(results: Any) -> list[Tensor]:
    return list(results) if isinstance(results, tuple) else [results]


def errors(plain: Call, kernel: Call, given: list[Tensor]) -> tuple[float, float]:
    """Largest ‖result − fp64‖ / ‖fp64‖ of the model's ops and of the fused op."""
    exact = flat(plain(*(value.double() for value in given)))

    def worst(results: list[Tensor]) -> float:
        return max(float((r - e).norm() / e.norm()) for r, e in zip(results, exact, strict=True))

    return worst(flat(plain(*given))), worst(flat(kernel(*given)))


@contextlib.contextmanager
def rows_held() -> Iterator[None]:
    """Inductor holds rows of any width in registers, not only those of up to 1024 values."""
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    class Held(InductorChoices):
        @staticmethod
        def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
            return V.graph.sizevars.statically_known_leq(features.reduction_numel, 16384)

    with V.set_choices_handler(Held()):
        yield


def milliseconds(call: Call, given: list[Tensor], repeats: int = 20) -> float:
    """Median of calls that find none of their operands in the cache."""
    for _ in range(3):
        call(*given)
    flushed = torch.empty(128 << 20, dtype=torch.int8, device="cuda")
    times = []
    for _ in range(repeats):
        flushed.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(*given)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def compiled(call: Call, given: list[Tensor]) -> float:
    torch._dynamo.reset()
    return milliseconds(torch.compile(call, dynamic=False), given)


def copy_rate() -> float:
    """Bytes per millisecond, read and written."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    return 2 * source.numel() / milliseconds(torch.empty_like(source).copy_, [source])


def measure(name: str, tokens: int, width: int, rate: float) -> dict[str, Any]:
    plain, kernel = CASES[name]
    given = operands(plain, tokens, width, "cuda")
    nbytes = sum(value.nbytes for value in (*given, *flat(kernel(*given))))
    eager_error, kernel_error = errors(plain, kernel, operands(plain, 257, width, "cuda"))
    row: dict[str, Any] = {"case": name, "tokens": tokens, "channels": width, "bytes": nbytes / rate}
    row |= {"eager": milliseconds(plain, given), "inductor": compiled(plain, given)}
    with rows_held():
        row["rows held"] = compiled(plain, given)
    row["fused"] = milliseconds(kernel, given)
    return row | {"eager error": eager_error, "fused error": kernel_error}


def _size(text: str) -> tuple[int, int]:
    tokens, channels = text.split("x")
    return int(tokens), int(channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, type=_size, metavar="TOKENSxCHANNELS")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    rate = copy_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {rate / 1e9:.2f} TB/s; milliseconds")
    times = ("bytes", "eager", "inductor", "rows held", "fused")
    print(f"{'':48s}" + "".join(f"{name:>11s}" for name in times) + f"{'errors: eager':>15s}{'fused':>10s}")
    rows = []
    for tokens, width in options.sizes:
        for name in CASES:
            row = measure(name, tokens, width, rate)
            rows.append(row)
            label = f"{name} {tokens} × {width}"
            shown = "".join(f"{row[kind]:11.3f}" for kind in times)
            print(f"{label:48s}{shown}{row['eager error']:15.2e}{row['fused error']:10.2e}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": torch.cuda.get_device_name(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
