"""``quantize-linear``: linear layers on fp8 or int8 codes, where that pays and the measured error is small.

Which layers, nobody says by name. Layers that read one activation are judged together, since they quantize it once:
the time that faster matrix products save must exceed the time that quantizing takes. A layer whose own error, measured
on the user's first inputs, is too large stays as it is.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.errors import BackendUnavailableError
from fastvideo_ir.ops.define import aten

from ..backends import fused
from ..backends.fused import quantization

Evaluate = Callable[[ir.Program], Sequence[Any]]
"""Runs a program with the captured one's params on the user's inputs; returns its flat outputs."""

_Groups = dict[fx.Node, list[fx.Node]]
"""Linear layers by the activation that they read."""

EXACT_RATE, CODES_RATE = 750e12, 1350e12
"""FLOP/s of matrix products in bf16 and on codes, measured on an H200; on other GPUs the ratios are alike."""
BANDWIDTH = 4e12
"""Bytes per second of device memory."""
LAUNCH = 5e-6
"""Seconds that a kernel takes at least."""
SAMPLED_TOKENS = 1024
"""Errors are measured on this many tokens, evenly spread."""


class NothingQuantizedWarning(UserWarning):
    """Quantization was asked for, and every linear layer stays exact."""


class QuantizeLinear(ir.Pass):
    """Stands before ``fuse-linear-gelu``: the GELU before a quantized layer is computed where its result is quantized.

    Where no layer is taken, it warns with :class:`NothingQuantizedWarning`, which says why.

    Attributes:
        format: ``fp8`` (e4m3) or ``int8``.
        device: type of the device that the program will run on.
        largest_error: ``‖quantized − exact‖ / ‖exact‖`` of one layer's output, above which it stays exact.
        least_gain: seconds that a group of layers must save per call; negative takes every layer.
        evaluate: measures errors; None takes layers by their size alone.
    """

    name = "quantize-linear"
    needs = ir.Stage.CANONICAL
    preserves_numerics = False

    format: str = "fp8"
    device: str = "cpu"
    largest_error: float = 0.06
    least_gain: float = 0.0
    evaluate: Evaluate | None = field(default=None, repr=False, compare=False)

    @property
    def approximates(self) -> str | None:
        return f"quantization={self.format}"

    def run(self, program: ir.Program) -> None:
        fmt = quantization.named(self.format)
        refusal = quantization.refusal(fmt, self.device)
        if refusal is not None:
            raise BackendUnavailableError(refusal, hint="leave quantization out, or name another format")
        candidates = _candidates(program, self.device)
        large = self._worth_it(candidates)
        precise = self._precise(program, large, fmt)
        groups = self._worth_it(precise)
        if not groups:
            reason = self._why_none(candidates, large, precise)
            warnings.warn(
                f"{self.name} to {self.format} leaves every layer exact: {reason}",
                NothingQuantizedWarning,
                stacklevel=2,
            )
            return
        rewriter = ir.Rewriter(program, self.name)
        params: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        replaced: dict[fx.Node, fx.Node] = {}
        position = {node: number for number, node in enumerate(program.nodes)}
        for source, layers in groups.items():
            x, gelu = _before_gelu(replaced.get(source, source), layers)
            first = min(layers, key=position.__getitem__)
            pair = rewriter.insert(fused.quantize_tokens_op, (x, fmt.dtype, gelu), before=first, sources=(x,))
            codes, scales = (rewriter.insert(operator.getitem, (pair, n), before=first, sources=(x,)) for n in (0, 1))
            for layer in layers:
                weight = layer.args[1]
                assert isinstance(weight, fx.Node)
                if weight not in params:
                    params[weight] = _quantized_params(rewriter, weight, fmt)
                bias = layer.args[2] if len(layer.args) == 3 else None
                dtype = ir.tensor_type(layer).dtype
                operands = (codes, scales, *params[weight], bias, dtype)
                replaced[layer] = rewriter.replace_with(layer, fused.scaled_linear_op, operands)
            if gelu:
                rewriter.erase(source)
        for weight in params:
            if not weight.users:
                rewriter.erase_param(weight)

    def _worth_it(self, groups: _Groups) -> _Groups:
        return {source: layers for source, layers in groups.items() if _gain(source, layers) > self.least_gain}

    def _why_none(self, candidates: _Groups, large: _Groups, precise: _Groups) -> str:
        if not candidates:
            kinds = "floating point" if self.device == "cpu" else "bf16 or fp16"
            return f"no linear layer reads a weight of the model's own in {kinds}"
        if not large:
            return (
                f"none of the {_count(candidates)} linear layers is so large that faster products save more time than "
                f"quantizing takes (least_gain={self.least_gain}; a negative one takes every layer)"
            )
        if not precise:
            return (
                f"each of the {_count(large)} linear layers that are large enough has a measured error above "
                f"{self.largest_error} (largest_error)"
            )
        return (
            f"{_count(large) - _count(precise)} of the {_count(large)} linear layers that are large enough have a "
            f"measured error above {self.largest_error} (largest_error), and quantizing for the others alone takes "
            "more time than it saves (least_gain)"
        )

    def _precise(self, program: ir.Program, groups: _Groups, fmt: quantization.Format) -> _Groups:
        """The layers whose measured error is small enough."""
        if self.evaluate is None or not groups:
            return groups
        probes = {layer.name for layers in groups.values() for layer in layers}
        errors = dict(zip(*_measured(program, probes, fmt, self.evaluate), strict=True))
        kept = {
            source: [layer for layer in layers if float(errors[layer.name]) <= self.largest_error]
            for source, layers in groups.items()
        }
        return {source: layers for source, layers in kept.items() if layers}


def _candidates(program: ir.Program, device: str) -> _Groups:
    """Linear layers whose weight is the model's own, by the activation that they read.

    On GPUs only those in half precision: a model that keeps a layer in fp32 does so for its accuracy.
    """
    groups: _Groups = defaultdict(list)
    for node in program.nodes:
        if node.target is not aten.linear.default:
            continue
        x, weight = node.args[:2]
        assert isinstance(x, fx.Node) and isinstance(weight, fx.Node)
        param, kind = program.params.get(weight.name), ir.tensor_type(weight)
        usual = param is not None and param.recipe is None and len(kind.shape) == 2
        half = kind.dtype in (torch.bfloat16, torch.float16)
        if (
            usual
            and ir.tensor_type(x).dtype == kind.dtype
            and (half or (device == "cpu" and kind.dtype.is_floating_point))
        ):
            groups[x].append(node)
    return dict(groups)


def _count(groups: _Groups) -> int:
    return sum(map(len, groups.values()))


def _gain(source: fx.Node, layers: Sequence[fx.Node]) -> float:
    """Seconds that a group saves, as estimated: faster products, less reading and writing the activation."""
    kind = ir.tensor_type(source)
    products = sum(2 * kind.numel * ir.tensor_type(layer).shape[-1] for layer in layers)
    traffic = kind.nbytes + kind.numel
    return products * (1 / EXACT_RATE - 1 / CODES_RATE) - traffic / BANDWIDTH - LAUNCH


def _before_gelu(source: fx.Node, layers: Sequence[fx.Node]) -> tuple[fx.Node, bool]:
    """What is quantized: the operand of a tanh GELU that nobody else reads, or the activation itself."""
    if (
        source.target is aten.gelu.default
        and source.kwargs.get("approximate") == "tanh"
        and not set(source.users) - set(layers)
    ):
        operand = source.args[0]
        assert isinstance(operand, fx.Node)
        return operand, True
    return source, False


def _quantized_params(rewriter: ir.Rewriter, weight: fx.Node, fmt: quantization.Format) -> tuple[fx.Node, fx.Node]:
    """Params for codes and scales of a weight."""
    kind, param = ir.tensor_type(weight), rewriter.program.params[weight.name]
    types = ir.TensorType(fmt.dtype, kind.shape), ir.TensorType(torch.float32, kind.shape[:1])
    codes, scales = (
        rewriter.insert_param(ir.Param(param.source, param.kind, name), weight, kind)
        for name, kind in zip((fmt.codes_recipe, fmt.scales_recipe), types, strict=True)
    )
    return codes, scales


def _measured(
    program: ir.Program, layers: set[str], fmt: quantization.Format, evaluate: Evaluate
) -> tuple[list[str], Sequence[Any]]:
    """Names of layers and the relative errors of their outputs, each on its exact input."""
    probe = program.copy()
    rewriter = ir.Rewriter(probe, QuantizeLinear.name)
    scalar = ir.TensorType(torch.float64, ())
    errors: dict[str, fx.Node] = {}
    for node in list(probe.nodes):
        if node.name in layers:
            errors[node.name] = rewriter.insert(layer_error, (*node.args[:2], fmt.name), after=node, type=scalar)
    rewriter.set_outputs(list(errors.values()))
    rewriter.erase_dead()
    return list(errors), evaluate(probe)


def layer_error(x: Tensor, weight: Tensor, format_name: str) -> Tensor:
    """``‖quantized − exact‖ / ‖exact‖`` of ``x @ weight.T`` for some of the tokens, an fp64 scalar."""
    fmt = quantization.named(format_name)
    rows = x.reshape(-1, x.shape[-1])
    rows = quantization.widened(rows[:: max(1, math.ceil(rows.shape[0] / SAMPLED_TOKENS))])
    wide = quantization.widened(weight)
    scales = quantization.row_scales(wide, fmt)
    exact = F.linear(rows, wide)
    found = quantization.multiplied(
        *quantization.quantized(rows, fmt),
        quantization.encode(wide, scales, fmt),
        scales.squeeze(-1),
        None,
        exact.dtype,
    )
    error: Tensor = (found - exact).double().norm() / exact.double().norm().clamp_min(quantization.SMALLEST)
    return error
