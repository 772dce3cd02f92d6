"""Keeps a model's tensors as they were: writes to buffers are put back, and a model that writes to them is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fastvideo_ir.errors import InvalidArgumentError

from .signature import BoundCall


@contextmanager
def restored(model: nn.Module) -> Iterator[list[str]]:
    """Puts back what is written to buffers and to tensors that are plain attributes; parameters are too large to keep.

    Yields:
        a list that, when the context is left, names what was written to.
    """
    tensors = _small_state(model)
    copies = [tensor.clone() for tensor in tensors.values()]
    versions = [version(tensor) for tensor in tensors.values()]
    written: list[str] = []
    try:
        yield written
    finally:
        for (what, tensor), copy, old in zip(tensors.items(), copies, versions, strict=True):
            if version(tensor) != old:
                written.append(what)
                with torch.no_grad():
                    tensor.copy_(copy)


@contextmanager
def unchanged(model: nn.Module, call: BoundCall, inputs: list[torch.Tensor]) -> Iterator[None]:
    """Refuses a model that writes to its weights or to ``inputs`` while the context is entered.

    Raises:
        InvalidArgumentError: it does; names what it writes to. Buffers are put back.
    """
    watched: list[tuple[str, torch.Tensor]] = [(f"parameter {name!r}", p) for name, p in model.named_parameters()]
    watched += [(f"argument {path!r}", tensor) for path, tensor in zip(call.paths, inputs, strict=True)]
    versions = [version(tensor) for _, tensor in watched]
    with restored(model) as written:
        yield
    written += [what for (what, tensor), old in zip(watched, versions, strict=True) if version(tensor) != old]
    if written:
        raise InvalidArgumentError(
            f"the model writes to its {', '.join(written)} in place; a compiled model has no side effects",
            hint="write to a clone() of it, or return the new value",
        )


def _small_state(model: nn.Module) -> dict[str, torch.Tensor]:
    result = {f"buffer {name!r}": buffer for name, buffer in model.named_buffers()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                result[f"attribute {f'{path}.{name}'.lstrip('.')!r}"] = value
    return result


def version(tensor: torch.Tensor) -> int:
    """Counts writes to a tensor; those to one made in inference mode are not counted by torch."""
    return 0 if tensor.is_inference() else tensor._version
