"""What the denoiser is told of several generations at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .state import GenerationState


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One behind the other along the batch; of one, that tensor itself."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def joint_constants(states: Sequence[GenerationState]) -> dict[str, Any]:
    """Texts and further inputs of the denoiser, for all samples of all generations, which are of one kind."""
    first = states[0]
    constants: dict[str, Any] = {}
    for name in first.text or {}:
        constants[name] = joined([state.text[name] for state in states if state.text])
    for name, value in first.inputs.items():
        of_samples = _is_of_samples(value, first)
        constants[name] = joined([state.inputs[name] for state in states]) if of_samples else value
    return constants


def shared_inputs(state: GenerationState) -> Hashable:
    """What generations must have in common to be denoised together: shapes of inputs, values where none is a batch."""
    return tuple(
        (name, (value.shape, value.dtype) if _is_of_samples(value, state) else _value(value))
        for name, value in sorted(state.inputs.items())
    )


def _is_of_samples(value: Any, state: GenerationState) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == state.batch


def _value(value: Any) -> Hashable:
    """Equal for equal values; of what has no hash, its identity."""
    leaves, structure = pytree.tree_flatten(value)
    return str(structure), tuple(_leaf(leaf) for leaf in leaves)


def _leaf(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        flat = leaf.detach().cpu().contiguous().reshape(-1)
        return leaf.shape, leaf.dtype, flat.view(torch.uint8).numpy().tobytes()
    return leaf if isinstance(leaf, Hashable) else id(leaf)
