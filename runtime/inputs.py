"""The tensor inputs of a program: checked, brought to the device, and packed into one buffer for the other ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastvideo_ir as ir

_ALIGNMENT = 64  # bytes, so that any kernel may read the inputs where they lie


class InputPack:
    """The inputs of one program.

    Every rank knows their types from the program, so that only bytes travel, in a single broadcast.
    """

    def __init__(self, program: ir.Program) -> None:
        self._names = [node.name for node in program.input_nodes]
        self._types = [ir.tensor_type(node) for node in program.input_nodes]
        self._offsets = []
        self.nbytes = 0
        for value_type in self._types:
            self._offsets.append(self.nbytes)
            self.nbytes += -(-value_type.nbytes // _ALIGNMENT) * _ALIGNMENT

    def place(self, inputs: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """The inputs on ``device``, detached.

        Raises:
            InvalidArgumentError: their number, a shape or a dtype is not what the program was made for.
        """
        if len(inputs) != len(self._types):
            raise ir.errors.InvalidArgumentError(f"the program takes {len(self._types)} tensors, got {len(inputs)}")
        for name, value, value_type in zip(self._names, inputs, self._types, strict=True):
            if tuple(value.shape) != value_type.shape or value.dtype != value_type.dtype:
                raise ir.errors.InvalidArgumentError(
                    f"input {name!r} is {ir.TensorType.of(value)}, the program was made for {value_type.unplaced}"
                )
        return [value.detach().to(device) for value in inputs]

    def pack(self, inputs: Sequence[Tensor], device: torch.device) -> Tensor:
        """One buffer of bytes with all inputs, which are on ``device``."""
        buffer = torch.empty(self.nbytes, dtype=torch.uint8, device=device)
        for view, value in zip(self.unpack(buffer), inputs, strict=True):
            view.copy_(value)
        return buffer

    def unpack(self, buffer: Tensor) -> list[Tensor]:
        """The inputs as views of a buffer."""
        return [
            buffer[offset : offset + value_type.nbytes].view(value_type.dtype).view(value_type.shape)
            for offset, value_type in zip(self._offsets, self._types, strict=True)
        ]
