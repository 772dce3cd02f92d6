"""Repeated blocks are traced once: a module call that would record what an earlier one has recorded stands as one op.

What a call records follows from the module's live code and state, from its arguments but for the values of tensors, and
from the modes of torch that are on. Where all of that is equal to what it was at an earlier call, and that call has
changed nothing of it, the two are *twins*: they record the same ops on weights of their own. The later one is not run;
``stamps.py`` writes its ops down when the trace is complete. Whatever cannot be told is traced as ever.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules import module as nn_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fastvideo_ir.errors import InvalidArgumentError

from . import tree
from .fingerprint import NoFingerprintError
from .traced_fingerprint import fingerprint_while_traced
from .tree import Tree

FEWEST = 3
"""Of fewer modules of one class none is looked at."""
_MOST_UNLIKE = 3
"""A class of which so many calls were unlike each other has no twins worth looking for; modules inside them may."""


@dataclass(frozen=True)
class Kind:
    """All that a trace can tell of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    flags: tuple[bool, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Kind:
        flags = (tensor.is_conj(), tensor.is_neg(), tensor.requires_grad)
        shape, offset = tuple(tensor.shape), int(tensor.storage_offset())
        return cls(shape, tensor.stride(), offset, tensor.dtype, tensor.device, flags)


def _like(kinds: Sequence[Kind], storages: Sequence[int]) -> list[torch.Tensor]:
    """New tensors of these kinds; those with equal ``storages`` share one."""
    needed: dict[int, int] = {}
    for kind, storage in zip(kinds, storages, strict=True):
        last = sum((size - 1) * step for size, step in zip(kind.shape, kind.stride, strict=True) if size)
        needed[storage] = max(needed.get(storage, 0), kind.offset + last + 1)
    made = {
        storage: torch.empty(needed[storage], dtype=kind.dtype, device=kind.device)
        for kind, storage in zip(kinds, storages, strict=True)
    }
    return [
        made[storage].as_strided(kind.shape, kind.stride, kind.offset)
        for kind, storage in zip(kinds, storages, strict=True)
    ]


@dataclass(frozen=True)
class Block:
    """A module call that was traced.

    Attributes:
        name: of its two markers in the trace.
        path: of the module.
        module: the module.
        output: structure of what it returned.
        kinds: of the tensors that it returned.
        storages: numbers the memory behind each of them.
    """

    name: str
    path: str
    module: nn.Module
    output: Tree
    kinds: tuple[Kind, ...]
    storages: tuple[int, ...]


@dataclass(frozen=True)
class TwinCall:
    """A module call that was not traced, since it would record what ``block`` has recorded."""

    path: str
    module: nn.Module
    block: Block


_LIBRARY: Any = torch.library.Library("fv_capture", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("begin_block(Tensor[] operands, str name) -> ()")
_LIBRARY.define("end_block(Tensor[] results, str name) -> ()")
_LIBRARY.define("twin(Tensor[] operands, str name) -> Tensor[]")
BEGIN: Any = torch.ops.fv_capture.begin_block.default
END: Any = torch.ops.fv_capture.end_block.default
TWIN: Any = torch.ops.fv_capture.twin.default
"""``twin(operands, name)``: the call ``name`` was not traced; see :class:`TwinCall`."""
for _marker in (BEGIN, END):
    fx.node.has_side_effect(_marker)
    torch.library.register_fake(_marker, lambda tensors, name: None)

_numbers = itertools.count()
_coming: list[Block] = []
"""What the twin that is being written into the trace is a twin of."""


def _twin_on_fake(operands: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    block = _coming.pop()
    return _like(block.kinds, block.storages)


torch.library.register_fake(TWIN, _twin_on_fake)


class Twins:
    """Keeps calls out of a trace that have a twin in it.

    Args:
        model: its modules are looked at from the outside in.

    Attributes:
        calls: those that were kept out, under the names by which the trace calls them.
    """

    def __init__(self, model: nn.Module) -> None:
        # Tracers wrap modules in objects that share their attributes.
        self._modules = {id(vars(module)): (path, module) for path, module in model.named_modules()}
        _attributes_of_all()  # known before there is a trace that would record how
        counts = Counter(type(module) for _, module in self._modules.values() if module._modules)
        hooked = nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks
        self._classes = {kind for kind, count in counts.items() if count >= FEWEST and not hooked}
        self._blocks: dict[Hashable, Block] = {}
        self._unlike: Counter[type] = Counter()
        self._tracing = False
        self.calls: dict[str, TwinCall] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While entered, calls of modules are compared with those before them."""
        if not self._classes:
            yield
            return
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path, own = self._modules.get(id(vars(module)), ("", module))
            if self._tracing or not path or type(own) not in self._classes:
                return original(module, *args, **kwargs)
            with _unwatched():
                looked = _look(own, args, kwargs)
            if looked is None:
                self._classes.discard(type(own))
                return original(module, *args, **kwargs)
            key, operands = looked
            if key in self._blocks:
                return self._stand_in(TwinCall(path, own, self._blocks[key]), operands)
            return self._trace(key, operands, path, own, lambda: original(module, *args, **kwargs), (args, kwargs))

        with mock.patch.object(nn.Module, "__call__", call):
            yield

    def _stand_in(self, twin: TwinCall, operands: list[torch.Tensor]) -> Any:
        name = f"{twin.path}#{next(_numbers)}"
        self.calls[name] = twin
        _coming.append(twin.block)
        return tree.unflatten(twin.block.output, TWIN(operands, name))

    def _trace(
        self, key: Hashable, operands: list[torch.Tensor], path: str, own: nn.Module, run: Any, arguments: Any
    ) -> Any:
        self._unlike[type(own)] += 1
        if self._unlike[type(own)] > _MOST_UNLIKE:
            self._classes.discard(type(own))
            return run()
        name = f"{path}#{next(_numbers)}"
        BEGIN(operands, name)
        self._tracing = True
        try:
            result = run()
        finally:
            self._tracing = False
        with _unwatched():
            after = _look(own, *arguments)
            made = _made(result, operands, own)
        kept = after is not None and after[0] == key and list(map(id, after[1])) == list(map(id, operands))
        if made is None or not kept:
            self._classes.discard(type(own))
            return result
        output, tensors = made
        END(tensors, name)
        with _unwatched():
            self._blocks[key] = Block(name, path, own, output, tuple(map(Kind.of, tensors)), _shared(tensors))
        return result


def _unwatched() -> AbstractContextManager[None]:
    """While entered, tensors are looked at without the tracer's modes, which cost more than the look."""
    return torch._C.DisableTorchFunction()


def _look(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Hashable, list[torch.Tensor]] | None:
    """All that the trace of a call follows from, and the call's tensors; None where it cannot be told."""
    try:
        structure, operands, _ = tree.flatten_arguments({"args": list(args), "kwargs": kwargs})
        weights = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        if not all(_is_plain(tensor) and id(tensor) not in weights for tensor in operands):
            return None
        state = fingerprint_while_traced(module)
    except (InvalidArgumentError, NoFingerprintError):
        return None
    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]  # type: ignore[no-untyped-call]
    ambient = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
        *map(id, modes),
    )
    return (type(module), state, structure, tuple(map(Kind.of, operands)), _shared(operands), ambient), operands


def _made(result: Any, operands: Sequence[torch.Tensor], module: nn.Module) -> tuple[Tree, list[torch.Tensor]] | None:
    """Structure and tensors of a result, where these are new."""
    try:
        output, tensors = tree.flatten_result(result)
    except InvalidArgumentError:
        return None
    known = {_storage(tensor) for tensor in (*operands, *module.parameters(), *module.buffers())}
    dtypes = {(_storage(tensor), tensor.dtype) for tensor in tensors}
    new = len(dtypes) == len(set(_shared(tensors))) and known.isdisjoint(map(_storage, tensors))
    plain = all(_is_plain(tensor) and not any(Kind.of(tensor).flags) for tensor in tensors)
    return (output, tensors) if tensors and new and plain else None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a traced tensor is known by its kind alone: no constant, of known size, with no attributes of its own."""
    if not isinstance(tensor, FakeTensor) or tensor.constant is not None:
        return False
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    return all(type(size) is int for size in sizes) and vars(tensor).keys() <= _attributes_of_all()


@functools.lru_cache(maxsize=1)
def _attributes_of_all() -> set[str]:
    """What torch keeps in any tensor of a tracer."""
    with FakeTensorMode():
        return {*vars(torch.empty(0)), "_is_param"}


def _shared(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Equal numbers for those that share memory."""
    storages = [_storage(tensor) for tensor in tensors]
    return tuple(storages.index(storage) for storage in storages)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
