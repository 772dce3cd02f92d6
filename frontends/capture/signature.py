"""What a call looks like apart from the values of its tensors: the key under which a captured program is kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastvideo_ir.errors import InvalidArgumentError

from . import tree
from .tree import Tree


@dataclass(frozen=True, slots=True)
class TensorKey:
    """Shape and dtype of one tensor argument."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """Hashable. Two calls with equal signatures run the same program.

    Attributes:
        arguments: the structure of the arguments by parameter name, with every value that is no tensor.
        tensors: shape and dtype of each distinct tensor, in order.
    """

    arguments: Tree
    tensors: tuple[TensorKey, ...]


@dataclass(frozen=True, slots=True)
class CallForm:
    """How the caller passed the arguments, so that the model can be called in the same way again.

    Attributes:
        kinds: the arguments that were passed (defaults are not), with their kind in ``forward``.
        positional: how many of them were passed by position.
    """

    kinds: tuple[tuple[str, inspect._ParameterKind], ...]
    positional: int

    def arrange(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from canonical ones."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, kind in self.kinds:
            if kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(arguments[name])
            elif kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(arguments[name])
            elif len(args) < self.positional:
                args.append(arguments[name])
            else:
                kwargs[name] = arguments[name]
        return args, kwargs


@dataclass(frozen=True)
class BoundCall:
    """One call of a model in canonical form.

    Attributes:
        signature: the key of the call.
        tensors: the distinct tensors among the arguments.
        paths: where each stands, e.g. ``states[0]``.
        form: how the arguments were passed.
    """

    signature: Signature
    tensors: list[torch.Tensor]
    paths: list[str]
    form: CallForm

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of the same call with other tensors; containers are new objects."""
        return self.form.arrange(tree.unflatten(self.signature.arguments, tensors))


def signature_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
    """The cache key of ``model(*args, **kwargs)``; the same however the arguments are passed.

    Raises:
        InvalidArgumentError: the arguments do not fit the model's forward, or one cannot be part of a program.
    """
    return bind(inspect.signature(model.forward), type(model).__name__, args, kwargs).signature


def bind(forward: inspect.Signature, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
    """Match a call's arguments with the parameters of ``owner``'s forward. Raises as :func:`signature_of`."""
    try:
        bound = forward.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgumentError(f"{owner}.forward{forward}: {error}") from error
    kinds = tuple((name, forward.parameters[name].kind) for name in bound.arguments)
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = forward.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments[name] = dict(sorted(value.items()))
        elif kind is inspect.Parameter.VAR_POSITIONAL or (name, kind) in kinds or tree.is_constant(value):
            arguments[name] = value
        # A default that is an object of its own is the same in every call that leaves it out.
    structure, tensors, paths = tree.flatten_arguments(arguments)
    for tensor, path in zip(tensors, paths, strict=True):
        _check_tensor(tensor, path)
    keys = tuple(TensorKey(tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    return BoundCall(Signature(structure, keys), tensors, paths, CallForm(kinds, len(args)))


def _check_tensor(tensor: torch.Tensor, path: str) -> None:
    if tensor.requires_grad:
        raise InvalidArgumentError(
            f"argument {path!r} requires grad, but a compiled model does not differentiate", hint="pass it .detach()ed"
        )
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        raise InvalidArgumentError(f"argument {path!r} is a {type(tensor).__name__}; expected a plain torch.Tensor")
    if tensor.layout is not torch.strided:
        raise InvalidArgumentError(f"argument {path!r} has layout {tensor.layout}; expected a dense tensor")
