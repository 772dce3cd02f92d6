"""Code for the blocks of a lowered program: plain Python over torch ops, or kernels by Inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fastvideo_ir.block import Block, BlockCode
from fastvideo_ir.errors import UnknownNameError
from fastvideo_ir.garbage import collections_put_off
from fastvideo_ir.graph import map_arguments, on_device

Generator = Callable[[Block, Sequence[Tensor]], BlockCode]


def eager(block: Block, operands: Sequence[Tensor]) -> BlockCode:
    """Straight-line Python that calls torch ops one by one and frees values after their last use."""
    module = _module(block, operands)

    def run(values: Sequence[Tensor]) -> Sequence[Tensor]:
        result: tuple[Tensor, ...] = module(*values)
        return result

    return run


def inductor(block: Block, operands: Sequence[Tensor]) -> BlockCode:
    """Fused kernels by torch's Inductor; custom ops, such as attention, stay calls.

    Inductor's code is made for the strides that it saw. Operands that are not contiguous are therefore copied, here and
    at every call, so that one code serves all calls of the block.

    Inductor keeps code on disk for later processes, but only of graphs whose shapes stand in a tracing context.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    examples = [operand.detach().contiguous() for operand in operands]
    shapes = FakeTensorMode(shape_env=ShapeEnv())
    examples = [shapes.from_tensor(example, static_shapes=True) for example in examples]
    with torch.no_grad(), tracing(TracingContext(shapes)), collections_put_off():
        code: Any = compile_fx(_module(block, operands), examples)

    def run(values: Sequence[Tensor]) -> Sequence[Tensor]:
        result: Sequence[Tensor] = code(*[v if v.is_contiguous() else v.contiguous() for v in values])
        return result

    return run


GENERATORS: dict[str, Generator] = {"eager": eager, "inductor": inductor}


def named(name: str) -> Generator:
    """The generator called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in GENERATORS:
        raise UnknownNameError("code generator", name, GENERATORS)
    return GENERATORS[name]


def _module(block: Block, operands: Sequence[Tensor]) -> fx.GraphModule:
    """The block as a module for the device that the operands are on."""
    device = operands[0].device if operands else torch.device("cpu")
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in block.graph.nodes:
        new = graph.node_copy(node, lambda old: mapping[old])
        new.args, new.kwargs = map_arguments(new, lambda operand: operand)
        new.args, new.kwargs = on_device(new.args, device), on_device(new.kwargs, device)
        new.meta = {}
        mapping[node] = new
    return fx.GraphModule(torch.nn.Module(), graph)
