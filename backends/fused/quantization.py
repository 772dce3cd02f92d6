"""What quantizing means here: symmetric codes in fp8 (e4m3) or int8, one scale per token or per output channel.

A token's scale is its largest magnitude over *all* of its channels, divided by the largest code; a weight's scale is
that of each output channel. Both are defined on whole rows, so that the numbers do not depend on how ranks divide the
work. Symmetric per-row scaling as in Dettmers et al., "LLM.int8()" (2022), and Micikevicius et al., "FP8 Formats for
Deep Learning" (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastvideo_ir as ir

SMALLEST = 1e-12
"""The least magnitude that a row is taken to have, so that rows of zeros have a scale."""


@dataclass(frozen=True)
class Format:
    """One kind of codes.

    Attributes:
        name: as users write it.
        dtype: of the codes.
        largest: the largest code.
        capability: the least CUDA compute capability that multiplies such codes faster than bf16.
    """

    name: str
    dtype: torch.dtype
    largest: float
    capability: tuple[int, int]

    @property
    def codes_recipe(self) -> str:
        """The recipe that makes a weight's codes."""
        return f"{self.name}-codes"

    @property
    def scales_recipe(self) -> str:
        """The recipe that makes a weight's scales."""
        return f"{self.name}-scales"


FORMATS = {
    "fp8": Format("fp8", torch.float8_e4m3fn, 448.0, (8, 9)),
    "int8": Format("int8", torch.int8, 127.0, (8, 0)),
}
OF_DTYPE = {known.dtype: known for known in FORMATS.values()}


def named(name: str) -> Format:
    """The format called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise ir.errors.UnknownNameError("quantization", name, FORMATS)
    return FORMATS[name]


def refusal(fmt: Format, device: str) -> str | None:
    """Why linear layers in this format cannot run on a kind of device; None where they can."""
    if device == "cpu":
        return None  # through the references, for tests without a GPU
    if device != "cuda" or not torch.cuda.is_available():
        return f"{fmt.name} linear layers do not run on {device}"
    found = torch.cuda.get_device_capability()
    if found < fmt.capability:
        need, have = (".".join(map(str, version)) for version in (fmt.capability, found))
        gpu = torch.cuda.get_device_name()
        return f"{fmt.name} needs a GPU of compute capability {need} or more; this {gpu} has {have}"
    return None


def row_scales(rows: Tensor, fmt: Format) -> Tensor:
    """Scales of the last dim, which is kept with size one."""
    return rows.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / fmt.largest


def encode(rows: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    """Codes of ``rows``, which are fp32 or fp64."""
    scaled = (rows / scales).clamp(-fmt.largest, fmt.largest)
    return scaled.to(fmt.dtype) if fmt.dtype.is_floating_point else scaled.round().to(fmt.dtype)


def widened(value: Tensor) -> Tensor:
    """In fp32, or in fp64 where it is that already."""
    return value if value.dtype is torch.float64 else value.float()


def quantized(x: Tensor, fmt: Format, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Codes and scales (``[..., 1]``, fp32) of the tokens of ``x``, or of its tanh GELU."""
    wide = widened(x)
    if gelu:
        wide = F.gelu(wide, approximate="tanh")
    scales = row_scales(wide, fmt)
    return encode(wide, scales, fmt), scales.float()


def multiplied(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``(codes · scales) (weight · weight_scales)ᵀ + bias`` in plain PyTorch, for any device."""
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    out = F.linear(codes.to(wide), weight.to(wide)) * scales.to(wide) * weight_scales.to(wide)
    return (out if bias is None else out + bias.to(wide)).to(dtype)


def _codes(fmt: Format) -> Callable[[Tensor], Tensor]:
    return lambda weight: encode(widened(weight), row_scales(widened(weight), fmt), fmt)


def _scales(fmt: Format) -> Callable[[Tensor], Tensor]:
    return lambda weight: row_scales(widened(weight), fmt).squeeze(-1).float()


for _format in FORMATS.values():
    ir.register_recipe(_format.codes_recipe, _codes(_format))
    ir.register_recipe(_format.scales_recipe, _scales(_format))
