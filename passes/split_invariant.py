"""``split-invariant``: what follows from inputs that stay the same over many calls is computed once for all of them.

Projections of a prompt, keys and values of attention to it, tables of positions: they depend on weights, constants and
*invariant* inputs alone. Such calls move to the front of the program, a prologue, and ``fv.keep`` stands where the rest
reads them. The graph stays one: a call whose caller says that the invariant inputs are those of an earlier one leaves
the prologue out, its collectives included, and reads what each rank has kept.
"""

from __future__ import annotations

from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir import memory
from fastvideo_ir.errors import UnknownNameError
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.ops import Trait, has_trait
from fastvideo_ir.ops.define import aten
from fastvideo_ir.values import tensor_of


class SplitInvariant(ir.Pass):
    """Stands behind ``pack-collectives``, once it is settled who talks to whom; all ranks get the same prologue.

    Not in it: what weights alone determine, since it would be a second copy of them, but for what only the prologue
    reads; mere views of inputs, and tensors of zeros and their like, of which nothing is saved.

    Attributes:
        inputs: names of the invariant inputs, with spaces between.
    """

    name = "split-invariant"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    inputs: str = ""

    def run(self, program: ir.Program) -> None:
        names = self.inputs.split()
        known = [node.name for node in program.input_nodes]
        for name in names:
            if name not in known:
                raise UnknownNameError("input", name, known)
        prologue, needed = _prologue(program, set(names))
        if not prologue:
            return
        rewriter = ir.Rewriter(program, self.name)
        last = [node for node in program.nodes if node.op == "placeholder"][-1]
        for node in [node for node in program.nodes if node in needed]:
            rewriter.move(node, after=last)
            last = node
        for node in [node for node in program.nodes if node in prologue]:
            readers = {user for user in node.users if user not in prologue}
            kind = ir.value_type(node)
            if readers and isinstance(kind, ir.TensorType):
                last = rewriter.insert(memory.keep, (node, node.name), after=last, sources=(node,), type=kind)
                rewriter.replace(node, last, only=readers.__contains__, erase=False)
        for node in prologue:
            rewriter.set_invariant(node)
        rewriter.set_outputs([_unshared(rewriter, value) for value in program.output_values])


def _prologue(program: ir.Program, invariant: set[str]) -> tuple[set[fx.Node], set[fx.Node]]:
    """The calls of the prologue; and with them all that have to stand in front, such as views that they read."""
    fixed: set[fx.Node] = set()  # follow from weights, constants and invariant inputs
    constants: set[fx.Node] = set()  # follow from constants alone
    dependent: set[fx.Node] = set()  # follow from invariant inputs, among others
    views: set[fx.Node] = set()  # show a part of a placeholder
    filled: set[fx.Node] = set()  # made of nothing, such as zeros, and views of such: not worth keeping
    for node in program.nodes:
        operands = node.all_input_nodes
        if node.op == "placeholder":
            param = program.params.get(node.name)
            if param is not None or node.name in invariant:
                fixed.add(node)
                views.add(node)
            if node.name in invariant:
                dependent.add(node)
            elif param is not None and param.kind is not ir.ParamKind.PARAMETER:
                constants.add(node)
        elif node.op == "call_function" and _may_move(node) and fixed.issuperset(operands):
            fixed.add(node)
            if constants.issuperset(operands):
                constants.add(node)
            if not dependent.isdisjoint(operands):
                dependent.add(node)
            if not operands or (_is_view(node) and filled.issuperset(operands)):
                filled.add(node)
            elif _is_view(node) and views.issuperset(operands):
                views.add(node)
    found = {node for node in constants | dependent if node.op == "call_function"} - views - filled
    for node in reversed(list(program.nodes)):  # made of weights, for the prologue alone
        if node in fixed and node not in views and node.users and found.issuperset(node.users):
            found.add(node)
    needed = set(found)
    for node in reversed(list(program.nodes)):
        if node in needed:
            needed.update(operand for operand in node.all_input_nodes if operand.op == "call_function")
    return found, needed


def _may_move(node: fx.Node) -> bool:
    maker, _ = tensor_of(node)
    return not runs_on_first_rank(maker) and maker.target not in memory.MEMORY_OPS


def _is_view(node: fx.Node) -> bool:
    return has_trait(node, Trait.VIEW) or node.target is ir.dialect.shard


def _unshared(rewriter: ir.Rewriter, value: Any) -> Any:
    """``value``, or a copy where it shows what is kept: the caller may write to what is returned."""
    source = value
    while isinstance(source, fx.Node) and has_trait(source, Trait.VIEW):
        source = source.args[0]
    if not isinstance(source, fx.Node) or source.target is not memory.keep:
        return value
    return rewriter.insert(aten.clone.default, (value,), before=rewriter.program.output_node, sources=(value,))
