"""Blocks: pieces of a lowered program that are called like an op, many times with different weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, fx

BlockCode = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""What runs a block: flat operands in, flat results out."""


class Block:
    """Code that several calls of one program share. The target of ``fv.call_block`` nodes.

    Args:
        name: unique within the program.
        graph: placeholders, calls, and a flat tuple as output.
        generate: makes the code; asked at the first call, with its operands.
    """

    def __init__(self, name: str, graph: fx.Graph, generate: Callable[[Block, Sequence[Tensor]], BlockCode]) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "fastvideo_ir.block"
        self.graph = graph
        self._generate = generate
        self._code: BlockCode | None = None

    def __call__(self, *operands: Tensor) -> tuple[Tensor, ...]:
        if self._code is None:
            self._code = self._generate(self, operands)
        return tuple(self._code(operands))

    def __repr__(self) -> str:
        return f"fv.call_block[{self.__name__}]"
