"""The ops of calls that were not traced, see ``twins.py``: copies of what was recorded once, on other weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from fastvideo_ir.program import ParamKind

from .location import module_path
from .trace import StrategyFailedError, Trace
from .twins import BEGIN, END, TWIN, TwinCall


def stamp_twins(trace: Trace) -> None:
    """Write down what the twins in a trace record; nothing of this module is left in it.

    Raises:
        StrategyFailedError: a block reads what belongs to neither itself nor its arguments.
    """
    for node in trace.graph.nodes:
        for operand in node.all_input_nodes if node.target in (BEGIN, END, TWIN) else ():
            operand.users.setdefault(node)  # torch forgets a user with two operands in one list when it opens a region
    markers = [node for node in trace.graph.nodes if node.target in (BEGIN, END)]
    ends = {node.args[1]: node for node in markers if node.target is END}
    begins = {node.args[1]: node for node in markers if node.target is BEGIN}
    bodies = {name: _Body(begins[name], end, trace) for name, end in ends.items()}
    for node in [node for node in trace.graph.nodes if node.target is TWIN]:
        twin = trace.twins[node.args[1]]
        bodies[twin.block.name].stamp(node, twin)
    for node in reversed(markers):
        trace.graph.erase_node(node)


class _Body:
    """What a block has recorded."""

    def __init__(self, begin: fx.Node, end: fx.Node, trace: Trace) -> None:
        self._operands: Sequence[fx.Node] = begin.args[0]  # type: ignore[assignment]
        self._results: Sequence[fx.Node] = end.args[0]  # type: ignore[assignment]
        self._graph = trace.graph
        self._nodes: list[fx.Node] = []
        node = begin.next
        while node is not end:
            self._nodes.append(node)
            node = node.next
        placeholders = {node.name: node for node in self._graph.find_nodes(op="placeholder")}
        self._sources = {placeholders[name]: source for name, source in trace.sources.items()}
        self._holders = {id(source.tensor): node for node, source in self._sources.items()}

    def stamp(self, twin_node: fx.Node, twin: TwinCall) -> None:
        """Copy it in front of ``twin_node``, which goes."""
        operands: Sequence[fx.Node] = twin_node.args[0]  # type: ignore[assignment]
        known: dict[fx.Node, fx.Node] = dict(zip(self._operands, operands, strict=True))
        weights = _paired_weights(twin.block.module, twin.module)
        if any(known[old] is not new for old, new in zip(self._operands, operands, strict=True)):
            raise StrategyFailedError(f"{twin.block.path} is called with the same tensor twice, {twin.path} is not")

        def of_twin(node: fx.Node) -> fx.Node:
            if node not in known:
                source = self._sources.get(node)
                if source is None or (source.kind is not ParamKind.CONSTANT and id(source.tensor) not in weights):
                    raise StrategyFailedError(f"{twin.block.path} reads {node.name}, which it is not called with")
                own = weights.get(id(source.tensor))
                known[node] = node if own is None else self._holders[id(own)]
            return known[node]

        with self._graph.inserting_before(twin_node):
            for node in self._nodes:
                copy = self._graph.node_copy(node, of_twin)
                copy.meta = node.meta | {"nn_module_stack": _moved(node, twin)}
                known[node] = copy
        for user in list(twin_node.users):
            user.replace_all_uses_with(known[self._results[user.args[1]]])  # type: ignore[index]
            self._graph.erase_node(user)
        self._graph.erase_node(twin_node)


def _paired_weights(module: nn.Module, twin: nn.Module) -> dict[int, torch.Tensor]:
    """The tensors of ``twin``, by the ids of those that stand in the same places of ``module``."""
    paired: dict[int, torch.Tensor] = {}
    own = _weights(twin)
    for name, tensor in _weights(module).items():
        if paired.setdefault(id(tensor), own[name]) is not own[name]:
            raise StrategyFailedError(f"the weight {name!r} stands in two places of one block, and not of its twin")
    return paired


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def _moved(node: fx.Node, twin: TwinCall) -> dict[str, tuple[str, str]]:
    """The modules that run where the copy of ``node`` in ``twin`` is computed, as tracers write them."""
    path = module_path(node)
    inner = path.removeprefix(twin.block.path) if path.startswith(twin.block.path) else ""
    return {"twin": (f"{twin.path}{inner}", "")}
