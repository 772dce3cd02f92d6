"""Keeps a model as it was: writes to its buffers are put back, and a model that writes to its state is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    versions = [_version(tensor) for tensor in tensors.values()]
    written: list[str] = []
    try:
        yield written
    finally:
        for (what, tensor), copy, version in zip(tensors.items(), copies, versions, strict=True):
            if _version(tensor) != version:
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
    versions = [_version(tensor) for _, tensor in watched]
    with restored(model) as written:
        yield
    written += [what for (what, tensor), old in zip(watched, versions, strict=True) if _version(tensor) != old]
    if written:
        raise InvalidArgumentError(
            f"the model writes to its {', '.join(written)} in place; a compiled model has no side effects",
            hint="write to a clone() of it, or return the new value",
        )


class FrozenStateWarning(UserWarning):
    """The model counts or remembers something in Python; a compiled model does not."""


@contextmanager
def python_state_kept(model: nn.Module) -> Iterator[None]:
    """Puts back numbers, texts, flags and tensors that modules keep, and warns of those that a run has changed."""
    before = [(path, module, _plain_attributes(module)) for path, module in model.named_modules()]
    bindings = [
        (f"{path}.{name}".lstrip("."), held, name, value)
        for path, module in model.named_modules()
        for held in (module._buffers, vars(module))
        for name, value in held.items()
        if isinstance(value, torch.Tensor)
    ]
    try:
        yield
    finally:
        changed = []
        for what, held, name, value in bindings:
            now = held.get(name)
            if now is not value:
                if not _equal(now, value):
                    changed.append(what)
                held[name] = value
        for path, module, values in before:
            for name, now in _plain_attributes(module).items():
                if name in values and (type(now) is not type(values[name]) or now != values[name]):
                    changed.append(f"{path}.{name}".lstrip("."))
                    setattr(module, name, values[name])
    if changed:
        warnings.warn(
            f"{type(model).__name__} changes {', '.join(changed)} while it runs; a compiled model has no side effects "
            "and goes on with the values that it was captured with",
            FrozenStateWarning,
            stacklevel=2,
        )


def _equal(now: Any, value: torch.Tensor) -> bool:
    if type(now) is not type(value) or now.is_meta or value.is_meta:
        return False
    return (now.shape, now.dtype, now.device) == (value.shape, value.dtype, value.device) and torch.equal(now, value)


def _plain_attributes(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}


def _small_state(model: nn.Module) -> dict[str, torch.Tensor]:
    result = {f"buffer {name!r}": buffer for name, buffer in model.named_buffers()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                result[f"attribute {f'{path}.{name}'.lstrip('.')!r}"] = value
    return result


def _version(tensor: torch.Tensor) -> int:
    """Counts writes to a tensor; those to one made in inference mode are not counted by torch."""
    return 0 if tensor.is_inference() else tensor._version
