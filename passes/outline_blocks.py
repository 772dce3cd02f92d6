"""``outline-blocks``: cuts one rank's program into blocks, and gives equal ones the same code.

Cuts fall at transfers between ranks and between the model's repeated blocks, where the fewest values are alive. What is
left between two cuts becomes one ``fv.call_block``; stretches that differ only in their weights call the same block, so
that its code is generated once.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir import memory
from fastvideo_ir.block import Block
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import is_getitem, map_arguments
from fastvideo_ir.repeats import block_starts
from fastvideo_ir.types import TupleType
from fastvideo_ir.values import tensor_of

from ..backends import codegen


class OutlineBlocks(ir.Pass):
    """The last pass of every rank.

    Attributes:
        generator: who makes the blocks' code: ``eager`` or ``inductor``.
    """

    name = "outline-blocks"
    needs = ir.Stage.LOCAL
    reaches = ir.Stage.LOWERED

    generator: str = "eager"

    def run(self, program: ir.Program) -> None:
        generate = codegen.named(self.generator)
        blocks: dict[Hashable, Block] = {}
        rewriter = ir.Rewriter(program, self.name)
        _gather_elements(rewriter)
        for stretch in _stretches(program):
            _outline(rewriter, stretch, blocks, generate)


def _gather_elements(rewriter: ir.Rewriter) -> None:
    """Put what takes an element out of a row right behind the row: no edge of a block may part them."""
    for node in list(rewriter.program.nodes):
        for user in reversed(list(node.users)) if node.op == "call_function" else ():
            if is_getitem(user) and user.args[0] is node:
                rewriter.move(user, after=node)


def _stretches(program: ir.Program) -> list[list[fx.Node]]:
    """Runs of calls between two cuts. Transfers, random draws and Python belong to none: no kernel can hold them."""
    cuts = block_starts(program)
    result: list[list[fx.Node]] = [[]]
    for node in program.nodes:
        if node.op != "call_function":
            continue
        outside = _belongs_to_none(node)
        changes = bool(result[-1]) and _left_out(node) != _left_out(result[-1][0])
        if node in cuts or outside or changes:
            result.append([])
        if not outside:
            result[-1].append(node)
    return [stretch for stretch in result if stretch]


def _left_out(node: fx.Node) -> tuple[bool, bool]:
    """When calls leave ``node`` out."""
    known = ir.info(node)
    return known.skippable, known.invariant


def _belongs_to_none(node: fx.Node) -> bool:
    maker, _ = tensor_of(node)
    outside = maker.target in (*ir.dialect.TRANSFERS, *memory.MEMORY_OPS, ir.fetching.fetch)
    return outside or runs_on_first_rank(maker)


def _outline(
    rewriter: ir.Rewriter, stretch: list[fx.Node], blocks: dict[Hashable, Block], generate: codegen.Generator
) -> None:
    inside = set(stretch)
    operands = list(
        dict.fromkeys(operand for node in stretch for operand in node.all_input_nodes if operand not in inside)
    )
    results = [
        node
        for node in stretch
        if isinstance(ir.value_type(node), ir.TensorType) and any(user not in inside for user in node.users)
    ]
    if not results or not operands:
        return  # a block runs where its operands are; constants alone stay plain calls, which are told where to run
    key = _key(stretch, operands, results)
    if key not in blocks:
        blocks[key] = Block(f"block_{len(blocks)}", _graph(stretch, operands, results), generate)
    kinds = TupleType(tuple(ir.tensor_type(node) for node in results))
    call = rewriter.insert(blocks[key], operands, before=stretch[0], sources=stretch[:1], type=kinds)
    anchor = call
    for number, node in enumerate(results):
        anchor = rewriter.insert(
            operator.getitem, (call, number), after=anchor, sources=(node,), type=kinds.elements[number]
        )
        rewriter.replace(node, anchor, only=lambda user: user not in inside, erase=False)
    for node in reversed(stretch):
        rewriter.erase(node)


def _key(stretch: list[fx.Node], operands: list[fx.Node], results: list[fx.Node]) -> Hashable:
    """Equal for stretches that compute the same of their operands."""
    number = {node: index for index, node in enumerate([*operands, *stretch])}

    def refer(node: fx.Node) -> str:
        return f"%{number[node]}"

    lines: list[Any] = [str(ir.value_type(operand)) for operand in operands]
    lines += [(node.target, repr(map_arguments(node, refer)), str(ir.value_type(node))) for node in stretch]
    return (*lines, tuple(number[node] for node in results))


def _graph(stretch: list[fx.Node], operands: list[fx.Node], results: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for index, operand in enumerate(operands):
        mapping[operand] = graph.placeholder(f"operand_{index}")
    for node in stretch:
        mapping[node] = graph.node_copy(node, lambda old: mapping[old])
    graph.output(tuple(mapping[node] for node in results))
    return graph
