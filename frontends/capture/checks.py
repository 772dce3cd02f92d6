"""Refusals that need nothing but a look at the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastvideo_ir.errors import InvalidArgumentError


def check_model(model: Any) -> nn.Module:
    """The module to capture: ``model`` itself, or what ``torch.compile`` wrapped.

    Raises:
        InvalidArgumentError: no module, in training mode, or spread over several devices.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"expected a torch.nn.Module, got a {type(model).__name__}")
    inner = getattr(model, "_orig_mod", model)
    if not isinstance(inner, nn.Module):
        raise InvalidArgumentError(f"{type(model).__name__}._orig_mod is no torch.nn.Module")
    if isinstance(inner, torch.jit.ScriptModule):
        raise InvalidArgumentError("a scripted module cannot be captured", hint="pass the module it was made from")
    for name, module in inner.named_modules():
        if module.training:
            what = f"its module {name!r}" if name else f"{type(inner).__name__}"
            raise InvalidArgumentError(f"{what} is in training mode", hint="call model.eval() first")
    devices = sorted({str(tensor.device) for tensor in [*inner.parameters(), *inner.buffers()]})
    if len(devices) > 1:
        raise InvalidArgumentError(
            f"the model lies on several devices ({', '.join(devices)})", hint="move it to one device before compiling"
        )
    return inner


def check_ambient(device: torch.device) -> None:
    """Refuse a capture inside an autocast region of the caller, which would not be there at later calls."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        raise InvalidArgumentError(
            "the model is called under torch.autocast", hint="cast its weights with model.to(dtype) instead"
        )


def device_of(model: nn.Module, inputs: list[torch.Tensor]) -> torch.device:
    """The device the model runs on."""
    for tensor in [*model.parameters(), *model.buffers(), *inputs]:
        return tensor.device
    return torch.device("cpu")
