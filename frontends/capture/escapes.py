"""Notices every value of a tensor that the model reads into Python while it is traced with real values.

Such a value shapes the trace and leaves no dependence in it, so the trace holds only for inputs that give the same
value. Each escape is written into the trace as a :data:`MARKER` on the tensor that was read; guards are made of them.
What cannot be told apart from an escape counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import resolve_name
from torch.utils import _pytree

from fastvideo_ir.errors import InvalidArgumentError

from .watch import TraceWatch

_LIBRARY: Any = torch.library.Library("fv_capture", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("escape(Tensor value, str reader) -> ()")
_LIBRARY.impl("escape", lambda value, reader: None, "CompositeExplicitAutograd")

MARKER: Any = torch.ops.fv_capture.escape.default
"""``escape(value, reader)``: the function ``reader`` handed the contents of ``value`` to Python here."""
fx.node.has_side_effect(MARKER)

_METADATA = {
    "__format__", "__hash__", "__len__", "__repr__", "__str__", "can_cast", "data_ptr", "dense_dim", "dim", "dim_order",
    "element_size", "get_device", "has_names", "is_coalesced", "is_complex", "is_conj", "is_contiguous",
    "is_distributed", "is_floating_point", "is_inference", "is_neg", "is_pinned", "is_same_size", "is_set_to",
    "is_shared", "is_signed", "ndimension", "nelement", "numel", "retain_grad", "size", "sparse_dim",
    "storage_offset", "stride", "type",
}  # fmt: skip
"""Functions whose Python results come from shapes, dtypes and identities alone."""

_DYNAMIC_SHAPES = {"argwhere", "bincount", "nonzero", "unique", "unique_consecutive"}
"""Functions whose result has a shape that depends on the values of all their arguments."""

_REFUSED = {"__dlpack__", "__reduce_ex__", "untyped_storage", "storage", "share_memory_"}
"""Functions that hand out memory in which reads and writes cannot be seen."""


class EscapeRecorder(TraceWatch):
    """Marks every escape in the trace.

    Args:
        is_own: whether a file is the model's own source.
        is_paused: whether what runs now is not traced.
    """

    def __init__(self, is_own: Callable[[str], bool], is_paused: Callable[[], bool]) -> None:
        super().__init__(is_own)
        self._is_paused = is_paused

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_paused():
            return func(*args, **kwargs)
        name = _name(func)
        if name in _REFUSED:
            raise InvalidArgumentError(f"the model calls Tensor.{name}, whose reads and writes cannot be captured")
        if name in ("equal", "allclose", "is_nonzero", "__bool__"):
            return self._decide(name, args, kwargs)
        if name == "__getitem__":
            args = (args[0], _without_masks(args[1]))
        elif name == "__setitem__":
            args = (args[0], _without_masks(args[1]), *args[2:])
        elif name == "masked_select":
            return _select(*args, **kwargs)
        elif name == "one_hot" and _classes(*args, **kwargs) == -1:
            return self._one_hot(args[0] if args else kwargs["tensor"])
        elif name == "tensor_split" and isinstance(places := _places(args, kwargs), torch.Tensor):
            _mark(places, name)
            kwargs = {"dim": args[2]} if len(args) > 2 else {key: kwargs[key] for key in ("dim",) if key in kwargs}
            return func(args[0], _listed(places), **kwargs)
        elif name == "repeat_interleave" and _repeats(args, kwargs) is not None:
            return _repeat(*args, **kwargs)
        elif _has_dynamic_shape(name, args, kwargs):
            _mark((args, kwargs), name)
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        result = super().call(func, args, kwargs)
        if name not in _METADATA and name != "__get__" and _reads_values(result):
            _mark((args, kwargs), name)
        return result

    def _decide(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A yes or no about tensors. The answer alone escapes, and not the values behind it."""
        if name == "equal" and args[0].shape != args[1].shape:
            return False
        if name == "equal":
            answer = (args[0] == args[1]).all()
        elif name == "allclose":
            answer = torch.isclose(*args, **kwargs).all()
        else:
            answer = args[0].ne(0)
        _mark(answer, name)
        return bool(answer.item())

    @staticmethod
    def _one_hot(indices: torch.Tensor) -> torch.Tensor:
        """With as many classes as the largest index asks for, which is all that is read."""
        largest = indices.max()
        _mark(largest, "one_hot")
        with disable_proxy_modes_tracing():
            classes = int(largest.item()) + 1
        return torch.nn.functional.one_hot(indices, classes)


def _classes(tensor: torch.Tensor, num_classes: int = -1) -> int:
    """The number of classes that ``one_hot`` is called with."""
    return num_classes


def _places(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Where ``tensor_split`` cuts."""
    return args[1] if len(args) > 1 else kwargs.get("tensor_indices_or_sections", kwargs.get("indices_or_sections"))


def _listed(places: torch.Tensor) -> Any:
    with disable_proxy_modes_tracing():
        return places.tolist()


def _name(func: Any) -> str:
    return getattr(func, "__name__", None) or (resolve_name(func) or "").rpartition(".")[2]


def _mark(values: Any, reader: str) -> None:
    for value in _pytree.tree_leaves(values):
        if isinstance(value, torch.Tensor):
            MARKER(value, reader)


def _reads_values(result: Any) -> bool:
    """Whether a function's result holds Python numbers or arrays."""
    if isinstance(result, (list, tuple)) and type(result) is not torch.Size:
        return any(_reads_values(item) for item in result)
    return isinstance(result, (bool, int, float, complex, np.ndarray, np.generic))


def _has_dynamic_shape(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # where(condition) is nonzero, and repeat_interleave(repeats) gives the positions to repeat.
    alone = len(args) + len(kwargs) == 1
    return name in _DYNAMIC_SHAPES or (alone and name in ("where", "repeat_interleave"))


def _select(input: torch.Tensor, mask: torch.Tensor) -> Any:
    """``masked_select`` as indexing, so that the mask alone is read."""
    shape: torch.Size = torch.broadcast_shapes(input.shape, mask.shape)  # type: ignore[no-untyped-call]
    return input.expand(shape)[_without_masks(mask.expand(shape))]


def _repeats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The repeats of ``repeat_interleave`` where they are a tensor next to the one that is repeated."""
    repeats = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    return repeats if isinstance(repeats, torch.Tensor) and len(args) + len(kwargs) > 1 else None


def _repeat(input: torch.Tensor, repeats: torch.Tensor, dim: int | None = None, output_size: int | None = None) -> Any:
    """``repeat_interleave`` as a selection at positions that are constants under a guard on ``repeats`` alone."""
    whole, axis = (input.flatten(), 0) if dim is None else (input, dim)
    _mark(repeats, "repeat_interleave")
    with disable_proxy_modes_tracing():
        positions = torch.repeat_interleave(repeats.expand(whole.shape[axis]))
    return whole.index_select(axis, positions)


def _without_masks(index: Any) -> Any:
    """An index with every mask replaced by the positions where it is true, which are constants under a guard."""
    parts = index if isinstance(index, tuple) else (index,)
    result: list[Any] = []
    for part in parts:
        if isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8):
            _mark(part, "a boolean index")
            with disable_proxy_modes_tracing():
                result.extend(part.nonzero(as_tuple=True))
        else:
            result.append(part)
    return tuple(result)
