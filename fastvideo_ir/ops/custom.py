"""Custom ops without the first-call cost of ``torch.library.custom_op``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

F = TypeVar("F", bound=Callable[..., Any])

_libraries: dict[str, torch.library.Library] = {}


class CustomOp:
    """An op of the dispatcher that changes none of its arguments, and computes in the same way on every device.

    ``torch.library.custom_op`` makes the same for training and for tracing by Dynamo as well: its first call imports
    Dynamo, which takes a worker process as long as all else that it does to start, and each call goes through more
    Python than most kernels take to launch. Programs need neither.
    """

    def __init__(self, qualified: str, run: Callable[..., Any]) -> None:
        namespace, name = qualified.split("::")
        self._qualified, self._run = qualified, run
        _libraries.pop(qualified, None)  # one that was made again, as in a notebook, takes the place of the first
        library: Any = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(name + torch.library.infer_schema(run, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, self._compute, "CompositeExplicitAutograd")
        _libraries[qualified] = library  # and nobody else holds it, since its end is the end of the op
        self._op: Any = getattr(getattr(torch.ops, namespace), name).default

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._op(*args, **kwargs)

    def register_fake(self, fake: F) -> F:
        """What the op returns on tensors without values."""
        torch.library.register_fake(self._qualified, fake, lib=_libraries[self._qualified])
        return fake

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        result = self._run(*args, **kwargs)
        taken = {_memory(tensor) for tensor in pytree.tree_leaves((args, kwargs)) if _has_memory(tensor)}
        if any(_has_memory(tensor) and _memory(tensor) in taken for tensor in pytree.tree_leaves(result)):
            raise RuntimeError(f"{self._qualified} returns memory of an argument; return a copy, as .clone() makes it")
        return result


def custom_op(qualified: str) -> Callable[[Callable[..., Any]], CustomOp]:
    """Make the decorated function the op ``namespace::name``; its annotations give the schema."""
    return lambda run: CustomOp(qualified, run)


def _has_memory(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
