"""Custom ops without the first-call cost of ``torch.library.custom_op``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

_libraries: dict[str, torch.library.Library] = {}


class CustomOp:
    """An op of the dispatcher that changes none of its arguments, and computes in the same way on every device.

    ``torch.library.custom_op`` makes the same for training and for tracing by Dynamo as well: its first call imports
    Dynamo, which takes a worker process as long as all else that it does to start, and each call takes twice as long.
    Programs need neither.
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
        taken = list(_tensors((*args, *kwargs.values())))
        if any(torch._C._is_alias_of(made, given) for made in _tensors((result,)) for given in taken):  # type: ignore[attr-defined]
            raise RuntimeError(f"{self._qualified} returns memory of an argument; return a copy, as .clone() makes it")
        return result


def custom_op(qualified: str) -> Callable[[Callable[..., Any]], CustomOp]:
    """Make the decorated function the op ``namespace::name``; its annotations give the schema."""
    return lambda run: CustomOp(qualified, run)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
