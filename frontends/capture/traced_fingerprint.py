"""A digest of a module in the middle of a trace: equal before two of its calls, or before those of two modules, where
their code would do the same."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from .fingerprint import Fingerprint, NoFingerprintError, qualified_name, shown

_MEMO = type(functools.lru_cache(len))


def fingerprint_while_traced(module: nn.Module) -> str:
    """Digest of a module whose weights are a tracer's.

    Raises:
        NoFingerprintError: as :func:`~.fingerprint.fingerprint`; or it reaches other tensors of the tracer, or
            something that shows no value.
    """
    try:
        return _TracedFingerprint(module).of([module])
    except NoFingerprintError:
        raise
    except Exception as error:  # objects of others may raise anything when they are looked at
        raise NoFingerprintError(f"looking at what it reaches raised {type(error).__name__}: {error}") from error


class _TracedFingerprint(Fingerprint):
    """Of state within one process: what has an address alone could have changed unseen, and is refused."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._weights = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}

    def add_tensor(self, tensor: torch.Tensor, path: str) -> None:
        if id(tensor) in self._weights:
            self.emit("weight", tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        elif type(tensor) is not torch.Tensor:
            raise NoFingerprintError(f"{path} is a {type(tensor).__name__} and no weight of the module")
        else:
            super().add_tensor(tensor, path)

    def add_instance(self, value: Any, path: str) -> None:
        if isinstance(value, _MEMO):
            self.emit("remembers", value.cache_info().currsize)
        super().add_instance(value, path)

    def add_of_foundation(self, value: Any, path: str) -> None:
        if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, (type(None), type, ModuleType)):
            self.emit(value.__name__)
        elif (text := shown(value)) is not None:
            self.emit(text)
        elif not self.add_held(value, path):
            raise NoFingerprintError(f"{path} is a {qualified_name(type(value))}, which does not show its value")
