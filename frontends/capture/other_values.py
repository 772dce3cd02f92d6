"""A second input for verification: the same structure, other values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_SEED = 20240229


def other_values(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Inputs of the same shapes with other values of like distribution; integers stay within their range."""
    generator = torch.Generator().manual_seed(_SEED)
    return [_other(tensor, generator) for tensor in tensors]


def _other(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.numel():
        return tensor.clone()
    values = tensor.detach().to("cpu")
    flat = values.reshape(-1)
    if bool((flat == flat[0]).all()):
        result = _other_constant(values)
    elif values.is_complex():
        scale = values.abs().std().item()
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        result = values * torch.polar(torch.ones_like(noise), noise * scale).to(values.dtype)
    elif values.is_floating_point() and not bool((flat == flat.round()).all()):
        wide = values.double()
        result = torch.randn(values.shape, generator=generator, dtype=torch.float64) * wide.std() + wide.mean()
    else:  # indices, masks, positions
        result = flat[torch.randperm(flat.numel(), generator=generator)].reshape(values.shape)
    return result.to(tensor.device, tensor.dtype)


def _other_constant(values: torch.Tensor) -> torch.Tensor:
    """All elements are equal: a scalar, a mask of ones, a timestep per token."""
    if values.is_floating_point() or values.is_complex():
        return values * 0.75 + (values == 0)
    result = values.clone()
    # The tail alone, so that a full mask becomes one with trailing padding.
    tail = result.reshape(-1)[-max(1, result.numel() // 4) :]
    tail.copy_(~tail if values.dtype is torch.bool else tail // 2)
    return result
