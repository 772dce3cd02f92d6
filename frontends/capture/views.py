"""The functional form of a mutating op, and the inverse of a view: put a new piece back into the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from .builder import GraphBuilder
from .trace import StrategyFailedError

aten = torch.ops.aten

_SAME_ELEMENTS = {
    "alias", "contiguous", "detach", "dropout", "expand", "expand_as", "flatten", "lift", "reshape", "reshape_as",
    "squeeze", "to", "type_as", "unflatten", "unsqueeze", "view", "view_as", "_unsafe_view",
}  # fmt: skip
"""Views that keep all elements in row-major order. Where ``expand`` enlarges, torch itself refuses to write."""


def written_argument(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node | None:
    """The argument that the op ``target`` writes to; None where it mutates nothing.

    Raises:
        StrategyFailedError: it writes to several tensors, or changes the shape of one.
    """
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return None
    written: list[Any] = []
    for position, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(args[position] if position < len(args) else kwargs.get(argument.name))
    if len(written) != 1 or not isinstance(written[0], fx.Node):
        raise StrategyFailedError(
            f"{target} writes to {len(written)} values at once, which has no functional form here"
        )
    if torch.Tag.inplace_view in target.tags:
        raise StrategyFailedError(f"{target} changes the shape of a tensor in place")
    return written[0]


def functional_call(
    builder: GraphBuilder, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], old: fx.Node
) -> fx.Node:
    """Emit what the mutating op ``target`` leaves in the tensor that holds ``old`` before.

    Raises:
        StrategyFailedError: torch has no functional form of it.
    """
    dtype, shape = builder.tensor(old).dtype, builder.tensor(old).shape
    if target is aten.copy_.default:
        new: fx.Node = args[1]
    else:
        functional, dropped = functional_overload(target)
        args = tuple(value for index, value in enumerate(args) if target._schema.arguments[index].name not in dropped)
        new = builder.emit(functional, args, {k: v for k, v in kwargs.items() if k not in dropped})
    # In place, the written tensor keeps its dtype and its shape.
    if builder.tensor(new).dtype != dtype:
        new = builder.emit(aten.to.dtype, (new, dtype))
    if builder.tensor(new).shape != shape:
        new = builder.emit(aten.expand.default, (new, list(shape)))
    return new


def functional_overload(target: OpOverload) -> tuple[OpOverload, set[str]]:
    """The overload of a mutating op without mutation, and the names of the arguments that it does not have.

    Raises:
        StrategyFailedError: there is none.
    """
    schema = target._schema
    outs = {argument.name for argument in schema.arguments if argument.is_out}
    wanted = [(argument.name, str(argument.type)) for argument in schema.arguments if not argument.is_out]
    name = schema.name.removeprefix("aten::")
    stem = name.removesuffix("_")
    for packet_name in (stem, f"{stem}_functional"):
        packet = getattr(aten, packet_name, None)
        for overload in packet.overloads() if packet else ():
            candidate: OpOverload = getattr(packet, overload)
            arguments = [(argument.name, str(argument.type)) for argument in candidate._schema.arguments]
            if arguments == wanted and not candidate._schema.is_mutable:
                return candidate, outs
    raise StrategyFailedError(f"{target} has no functional form")


def scatter(
    builder: GraphBuilder, view: Any, args: Sequence[Any], kwargs: dict[str, Any], whole: fx.Node, piece: fx.Node
) -> fx.Node:
    """Emit ``whole`` with ``view(whole, *args, **kwargs)`` replaced by ``piece``.

    Raises:
        StrategyFailedError: the view has no known inverse.
    """
    packet = view.overloadpacket.__name__ if isinstance(view, OpOverload) else str(view)
    shape = builder.tensor(whole).shape
    if packet in _SAME_ELEMENTS and builder.tensor(piece).numel() == shape.numel():
        if builder.tensor(piece).dtype != builder.tensor(whole).dtype:
            raise StrategyFailedError(f"a write through {view} reinterprets the bytes of a tensor")
        same = builder.tensor(piece).shape == shape
        return piece if same else builder.emit(aten.reshape.default, (piece, list(shape)))
    inverse = _INVERSES.get(packet)
    if inverse is None or kwargs:
        raise StrategyFailedError(f"a write through {view} at {builder.location} has no functional form here")
    return inverse(builder, list(args), whole, piece)


def scatter_piece(
    builder: GraphBuilder,
    split: Any,
    args: Sequence[Any],
    pieces: Sequence[torch.Tensor],
    index: int,
    whole: fx.Node,
    piece: fx.Node,
) -> fx.Node:
    """Emit ``whole`` with the ``index``-th result of ``split(whole, ...)`` replaced by ``piece``.

    Args:
        args: of ``split``, the whole included.
        pieces: all results of ``split``, as meta tensors.

    Raises:
        StrategyFailedError: the op has no known inverse.
    """
    packet = split.overloadpacket.__name__ if isinstance(split, OpOverload) else str(split)
    defaults = {argument.name: argument.default_value for argument in split._schema.arguments}
    names = [argument.name for argument in split._schema.arguments]
    dim: Any = dict(zip(names, args, strict=False)).get("dim", defaults.get("dim"))
    if packet == "unbind":
        return builder.emit(aten.select_scatter.default, (whole, piece, dim, index % len(pieces)))
    if packet in ("chunk", "split", "split_with_sizes", "tensor_split"):
        index %= len(pieces)
        start = sum(previous.shape[dim] for previous in pieces[:index])
        end = start + pieces[index].shape[dim]
        return builder.emit(aten.slice_scatter.default, (whole, piece, dim, start, end))
    raise StrategyFailedError(f"a write through {split} at {builder.location} has no functional form here")


_Inverse = Callable[[GraphBuilder, list[Any], fx.Node, fx.Node], fx.Node]


def _scatter_with(target: OpOverload) -> _Inverse:
    return lambda builder, args, whole, piece: builder.emit(target, (whole, piece, *args))


def _swap_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    dims = args or [-2, -1]
    if builder.tensor(whole).ndim < 2:
        return piece
    return builder.emit(aten.transpose.int, (piece, *dims))


def _permute_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    rank = builder.tensor(whole).ndim
    order = [dim % rank for dim in args[0]]
    return builder.emit(aten.permute.default, (piece, [order.index(dim) for dim in range(rank)]))


def _move_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    source, destination = args
    overload = aten.movedim.int if isinstance(source, int) else aten.movedim.intlist
    return builder.emit(overload, (piece, destination, source))


def _narrow_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    dim, start, length = args
    start %= builder.tensor(whole).shape[dim] or 1
    return builder.emit(aten.slice_scatter.default, (whole, piece, dim, start, start + length))


def _call_back(target: OpOverload) -> _Inverse:
    return lambda builder, args, whole, piece: builder.emit(target, (piece,))


def _real_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    return builder.emit(aten.complex.default, (piece, builder.emit(aten.imag.default, (whole,))))


def _imag_back(builder: GraphBuilder, args: list[Any], whole: fx.Node, piece: fx.Node) -> fx.Node:
    return builder.emit(aten.complex.default, (builder.emit(aten.real.default, (whole,)), piece))


_INVERSES: dict[str, _Inverse] = {
    "diagonal": _scatter_with(aten.diagonal_scatter.default),
    "imag": _imag_back,
    "mT": _swap_back,
    "movedim": _move_back,
    "moveaxis": _move_back,
    "narrow": _narrow_back,
    "numpy_T": lambda builder, args, whole, piece: builder.emit(aten.numpy_T.default, (piece,)),
    "permute": _permute_back,
    "real": _real_back,
    "select": _scatter_with(aten.select_scatter.default),
    "slice": _scatter_with(aten.slice_scatter.default),
    "swapaxes": _swap_back,
    "swapdims": _swap_back,
    "t": _swap_back,
    "transpose": _swap_back,
    "view_as_complex": _call_back(aten.view_as_real.default),
    "view_as_real": _call_back(aten.view_as_complex.default),
}
