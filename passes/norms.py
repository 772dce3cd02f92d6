"""What a norm is: an op of its own, or a root mean square written out. For passes that fuse it with its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind, is_getitem
from fastvideo_ir.ops.attention import is_attention
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.pointwise import POINTWISE_RULES
from fastvideo_ir.ops.registry import Trait, has_trait, of
from fastvideo_ir.ops.statistics import accumulated

MULTIPLY = (aten.mul.Tensor, aten.multiply.Tensor)
ADD = (aten.add.Tensor,)
CASTS = (aten.to.dtype, aten._to_copy.default)
_SQUARES = (aten.pow.Tensor_Scalar, aten.square.default, *MULTIPLY)
_ADD_NUMBER = (aten.add.Tensor, aten.add.Scalar)


@dataclass(frozen=True)
class Norm:
    """A norm over the last dim.

    Attributes:
        operand: what is normalized, before it is widened.
        rms: whether it divides by the root mean square and leaves the mean.
        weight: ``[channels]``, or None.
        bias: likewise.
        eps: added to the variance.
        nodes: the calls that it is made of, the result's included.
    """

    operand: fx.Node
    rms: bool
    weight: fx.Node | None
    bias: fx.Node | None
    eps: float
    nodes: tuple[fx.Node, ...]


def match_norm(node: fx.Node) -> Norm | None:
    """The norm whose result, without the weight that may be multiplied behind it, ``node`` is."""
    if node.target in (aten.layer_norm.default, aten.rms_norm.default):
        return _norm_op(node)
    return _root_mean_square(node) if node.target in (*MULTIPLY, aten.div.Tensor) else None


def match_weighted_norm(node: fx.Node) -> Norm | None:
    """As :func:`match_norm`, with a weight that is multiplied behind it."""
    found = match_norm(node)
    if found is not None or node.target not in MULTIPLY:
        return found
    for value, weight in both_orders(node):
        inner, casts = without_casts(value)
        norm = match_norm(inner)
        if norm is not None and norm.weight is None and norm.bias is None and is_channels(weight, inner):
            return Norm(norm.operand, norm.rms, weight, None, norm.eps, (*norm.nodes, *casts, node))
    return None


def _norm_op(node: fx.Node) -> Norm | None:
    arguments = bind(node)
    if len(arguments["normalized_shape"]) != 1:
        return None
    value = arguments["input"]
    eps = arguments["eps"]
    if eps is None:
        eps = torch.finfo(accumulated(ir.tensor_type(value).dtype)).eps
    operand, casts = without_widening(value)
    rms = node.target is aten.rms_norm.default
    return Norm(operand, rms, arguments["weight"], arguments.get("bias"), eps, (*casts, node))


def _root_mean_square(node: fx.Node) -> Norm | None:
    """``x · rsqrt(mean(x²) + eps)``, or ``x / sqrt(mean(x²) + eps)``."""
    divides = node.target is aten.div.Tensor
    for value, factor in both_orders(node):
        if divides and value is not node.args[0]:
            continue
        if factor.target is not (aten.sqrt.default if divides else aten.rsqrt.default):
            continue
        found = _mean_of_squares(_operand(factor))
        if found is None:
            continue
        squared, eps, nodes = found
        operand, casts = without_widening(value)
        other, more = without_widening(squared)
        if operand is other:
            return Norm(operand, True, None, None, eps, (*casts, *more, *nodes, factor, node))
    return None


def _mean_of_squares(node: fx.Node) -> tuple[fx.Node, float, tuple[fx.Node, ...]] | None:
    """What is squared, ``eps`` and the calls of ``mean(x²) + eps`` over the last dim, which is kept."""
    if node.target not in _ADD_NUMBER or not isinstance(node.args[1], float) or node.kwargs:
        return None
    mean = _operand(node)
    if mean.target is not aten.mean.dim:
        return None
    arguments = bind(mean)
    square = _operand(mean)
    rank = len(ir.tensor_type(square).shape)
    if list(arguments["dim"]) not in ([-1], [rank - 1]) or not arguments["keepdim"] or square.target not in _SQUARES:
        return None
    if square.target is aten.pow.Tensor_Scalar and square.args[1] != 2:
        return None
    if square.target in MULTIPLY and square.args[0] is not square.args[1]:
        return None
    return _operand(square), node.args[1], (square, mean, node)


def _operand(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def both_orders(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """The two operands of a call, in both orders; none where one is a number, or more than a plain call is meant."""
    operands = node.args
    if len(operands) == 2 and not node.kwargs and all(isinstance(value, fx.Node) for value in operands):
        left, right = operands
        yield left, right  # type: ignore[misc]
        yield right, left  # type: ignore[misc]


def is_cast(node: fx.Node) -> bool:
    """A cast between floating point types."""
    if node.op != "call_function" or node.target not in CASTS:
        return False
    source, result = ir.tensor_type(_operand(node)).dtype, ir.tensor_type(node).dtype
    return source.is_floating_point and result.is_floating_point


def without_casts(node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """What ``node`` casts, and the casts."""
    return _without(node, is_cast)


def is_widening(node: fx.Node) -> bool:
    """A cast that loses nothing."""
    return is_cast(node) and ir.tensor_type(_operand(node)).dtype.itemsize < ir.tensor_type(node).dtype.itemsize


def without_widening(node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """What ``node`` casts to a wider type, and the casts."""
    return _without(node, is_widening)


def _without(node: fx.Node, peel: Callable[[fx.Node], bool]) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    casts: list[fx.Node] = []
    while peel(node):
        casts.append(node)
        node = _operand(node)
    return node, tuple(reversed(casts))


def is_channels(value: Any, like: fx.Node) -> bool:
    """Whether ``value`` holds one number per channel, the last dim, of ``like``."""
    return isinstance(value, fx.Node) and ir.tensor_type(value).shape == ir.tensor_type(like).shape[-1:]


def is_pointwise(node: fx.Node) -> bool:
    """Whether a code generator computes ``node`` where its result is read, rather than keep it in memory."""
    op = of(node)
    return op is not None and op.rule in POINTWISE_RULES


def reads_memory(node: fx.Node) -> bool:
    """Whether ``node`` is a kernel of its own, which finds its operands in memory: a GEMM, attention, a transfer."""
    if node.op != "call_function":
        return True
    op = of(node)
    return is_attention(node) or op is None or op.flops is not None or not op.name.startswith("aten.")


def is_read_from_memory(node: fx.Node, or_by: tuple[object, ...] = ()) -> bool:
    """Whether some reader of ``node``, behind views, is a kernel of its own, or calls one of ``or_by``."""
    return any(
        is_read_from_memory(user, or_by)
        if has_trait(user, Trait.VIEW) or is_getitem(user)
        else reads_memory(user) or user.target in or_by
        for user in node.users
    )


def erase_unread(rewriter: ir.Rewriter, nodes: Iterable[fx.Node]) -> None:
    """Remove those of ``nodes`` that nobody reads any more, and no others."""
    wanted = set(nodes)
    for node in reversed([node for node in rewriter.program.nodes if node in wanted]):
        if not node.users:
            rewriter.erase(node)
