"""Attention on 8-bit codes against FlashAttention 3 in bf16, with quantization, and how exact each is.

    python -m benchmarks.attention

Activations have outliers: heavy-tailed queries, keys with large means in some channels, loud channels of values. Times
are medians, of a few calls and of many in a row, when the GPU is at its power limit.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from fastvideo.backends.attention import FlashAttention
from fastvideo.backends.attention.sage import flash3, kernel

SIZES = ((32760, 12, 60), (119056, 24, 6))
"""Tokens, heads, and calls in a row."""
HEAD_DIM = 128
SCALE = HEAD_DIM**-0.5
CHECKED_QUERIES = 128
SHARPNESS = 1.5
"""Standard deviation of the scores."""


def activations(tokens: int, heads: int) -> list[Tensor]:
    """Queries, keys and values ``[1, heads, tokens, head_dim]`` in bf16, heads next to channels."""
    random = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cuda")

    def some(share: float) -> Tensor:
        return (torch.rand(1, heads, 1, HEAD_DIM, generator=random, device="cuda") < share).float()

    size = 1, heads, tokens, HEAD_DIM
    q = normal(*size) / normal(4, 1, heads, tokens, 1).square().mean(0).sqrt() * (1 + 6 * some(0.05))
    k = normal(*size) * (1 + 5 * some(0.05)) + 8 * normal(1, heads, 1, HEAD_DIM) * some(0.1)
    v = normal(*size) * (1 + 20 * some(0.05)) + normal(1, heads, 1, HEAD_DIM)
    scores = q[:, :, :512] @ (k - k.mean(2, keepdim=True))[:, :, :4096].mT
    q *= SHARPNESS * math.sqrt(HEAD_DIM) / scores.std()
    return [x.bfloat16().transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]


def exact(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, scale: float) -> Tensor:
    """In fp32, for some of the queries."""
    parts = []
    for head in range(q.shape[1]):
        scores = q[0, head, rows].float() @ k[0, head].float().T * scale
        parts.append(torch.softmax(scores, -1) @ v[0, head].float())
    return torch.stack(parts)


def seconds(call: Callable[[], object], calls: int) -> float:
    """Median of single calls, one behind the other."""
    call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events))


def main() -> None:
    for tokens, heads, many in SIZES:
        q, k, v = activations(tokens, heads)
        contenders: dict[str, Callable[[], Tensor]] = {
            "FlashAttention 3, bf16": lambda q=q, k=k, v=v: FlashAttention().run(q, k, v, None, SCALE, False),
            "SAGE_ATTN": lambda q=q, k=k, v=v: kernel.attend(q, k, v, SCALE),
        }
        if flash3.fits(torch.cuda.get_device_capability(), HEAD_DIM):
            contenders["FlashAttention 3, fp8"] = lambda q=q, k=k, v=v: flash3.attend(q, k, v, SCALE)
        rows = torch.randint(0, tokens, (CHECKED_QUERIES,), device="cuda")
        wanted = exact(q, k, v, rows, SCALE).double()
        print(f"{tokens} tokens, {heads} heads of {HEAD_DIM}, {torch.cuda.get_device_name()}")
        first: tuple[float, float] | None = None
        for name, call in contenders.items():
            times = seconds(call, 4), seconds(call, many)
            first = first or times
            out = call()[0, :, rows].double()
            cosine = float(torch.nn.functional.cosine_similarity(out.flatten(), wanted.flatten(), 0))
            error = float((out - wanted).norm() / wanted.norm())
            ratios = ", ".join(f"{t * 1e3:.2f} ms ({f / t:.2f} ×)" for t, f in zip(times, first, strict=True))
            print(f"  {name:24s}{ratios}   cosine {cosine:.5f}, error {error:.2e}")


if __name__ == "__main__":
    main()
