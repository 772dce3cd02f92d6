"""The only thing that changes a graph. Keeps locations, records provenance, infers types, tells listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import fx

from .dialect import TransferOp
from .errors import VerificationError
from .infer import infer_type
from .ops.registry import Trait, has_trait
from .program import NodeInfo, Param, Program, Provenance, info, set_info, set_type, tensor_type, value_type
from .types import Placement, TensorType, TupleType, ValueType


class RewriteListener(Protocol):
    """Is told of every change."""

    def inserted(self, node: fx.Node) -> None: ...

    def replaced(self, old: fx.Node, new: fx.Node) -> None: ...

    def erased(self, node: fx.Node) -> None: ...


class Rewriter:
    """Changes ``program`` on behalf of the pass called ``by``.

    Args:
        program: changed in place.
        by: name of the pass, for provenance.
        listeners: told of every change, in order.
    """

    def __init__(self, program: Program, by: str, listeners: Iterable[RewriteListener] = ()) -> None:
        self.program = program
        self._by = by
        self._listeners = list(listeners)
        self.changes = 0

    def insert(
        self,
        target: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        before: fx.Node | None = None,
        after: fx.Node | None = None,
        sources: Sequence[fx.Node] = (),
        type: ValueType | None = None,
        name: str | None = None,
    ) -> fx.Node:
        """Add a call.

        Args:
            target: what it calls.
            args: its arguments.
            kwargs: its keyword arguments.
            before: where it goes; exactly one of ``before`` and ``after``.
            after: likewise.
            sources: the nodes it is made from; the first one's location is kept, and when it may be left out. The
                anchor where empty.
            type: what it yields; inferred where None.
            name: wish for its name.
        """
        anchor = before if before is not None else after
        if anchor is None or (before is not None and after is not None):
            raise VerificationError("insert needs one of before and after")
        known = type if type is not None else infer_type(target, args, kwargs or {})
        origins = [origin for origin in sources or [anchor] if origin.op != "output"]
        at = self.program.graph.inserting_before if before is not None else self.program.graph.inserting_after
        with at(anchor):
            node = self.program.graph.create_node("call_function", target, tuple(args), dict(kwargs or {}), name)
        provenance = Provenance(self._by, tuple(dict.fromkeys(origin.name for origin in origins)))
        node.meta = {}
        first = info(origins[0]) if origins else NodeInfo(None)
        set_info(
            node, NodeInfo(known, first.location, provenance, skippable=first.skippable, invariant=first.invariant)
        )
        self._note_change()
        for listener in self._listeners:
            listener.inserted(node)
        return node

    def insert_param(self, param: Param, like: fx.Node, type: TensorType) -> fx.Node:
        """Add a param beside ``like``, which is one: a tensor that is made of the model's own by another recipe."""
        with self.program.graph.inserting_after(like):
            node = self.program.graph.placeholder(like.name)
        node.meta = {}
        set_info(node, NodeInfo(type, info(like).location, Provenance(self._by, (like.name,))))
        self.program.params[node.name] = param
        self._note_change()
        for listener in self._listeners:
            listener.inserted(node)
        return node

    def add_input(self, name: str, type: TensorType) -> fx.Node:
        """Let the program take one more input, after those that it has."""
        placeholders = self.program.graph.find_nodes(op="placeholder")
        first = next(iter(self.program.graph.nodes))
        place = (
            self.program.graph.inserting_after(placeholders[-1])
            if placeholders
            else (self.program.graph.inserting_before(first))
        )
        with place:
            node = self.program.graph.placeholder(name)
        node.meta = {}
        set_info(node, NodeInfo(type, None, Provenance(self._by)))
        self._note_change()
        for listener in self._listeners:
            listener.inserted(node)
        return node

    def erase_param(self, node: fx.Node) -> None:
        """Remove a param that nobody reads."""
        del self.program.params[node.name]
        self.erase(node)

    def replace(
        self, old: fx.Node, new: fx.Node, *, only: Callable[[fx.Node], bool] | None = None, erase: bool = True
    ) -> None:
        """Use ``new`` instead of ``old``, in the users that ``only`` accepts.

        Raises:
            VerificationError: shapes or dtypes differ.
        """
        before, after = value_type(old), value_type(new)
        if _unplaced(before) != _unplaced(after):
            raise VerificationError(f"{self._by}: {old.name} yields {before}, its replacement {new.name} {after}")
        old.replace_all_uses_with(new, delete_user_cb=only or (lambda _: True))
        self._note_change()
        for listener in self._listeners:
            listener.replaced(old, new)
        if erase and not old.users and old.op != "placeholder":
            self.erase(old)

    def replace_with(
        self,
        old: fx.Node,
        target: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        sources: Sequence[fx.Node] = (),
    ) -> fx.Node:
        """Put a call in the place of ``old``, which goes. The placement of ``old`` is kept."""
        new = self.insert(target, args, kwargs, before=old, sources=sources or (old,))
        known = value_type(old)
        if _unplaced(known) == _unplaced(value_type(new)):
            set_type(new, known)
        self.replace(old, new)
        return new

    def move(self, node: fx.Node, *, after: fx.Node) -> None:
        """Put a node right behind another one; its operands must stand before that, and its users behind."""
        after.append(node)
        self._note_change()

    def set_arguments(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Give a node other arguments; its type stays."""
        node.args, node.kwargs = tuple(args), dict(kwargs)
        self._note_change()

    def set_target(self, node: fx.Node, target: Callable[..., Any]) -> None:
        """Let a node call something else with the same arguments and the same type."""
        node.target = target
        self._touch(node)

    def set_type(self, node: fx.Node, new_type: ValueType) -> None:
        set_type(node, new_type)
        self._note_change()

    def set_uses(self, node: fx.Node, uses: tuple[TensorType, ...] | None) -> None:
        """Record, or clear, the types in which ``node`` wants its operands."""
        set_info(node, replace(info(node), uses=uses))

    def pin(self, node: fx.Node, axis: str, placement: Placement) -> None:
        """Fix where an input lives along ``axis``."""
        known = info(node)
        pinned = tuple(dict.fromkeys((*known.pinned, axis)))
        set_info(node, replace(known, type=tensor_type(node).with_placement(axis, placement), pinned=pinned))
        self._note_change()

    def set_skippable(self, node: fx.Node) -> None:
        """Let calls of the program leave ``node`` out."""
        set_info(node, replace(info(node), skippable=True))
        self._note_change()

    def set_invariant(self, node: fx.Node) -> None:
        """Let calls leave ``node`` out whose invariant inputs are those of an earlier call."""
        set_info(node, replace(info(node), invariant=True))
        self._note_change()

    def set_outputs(self, values: Sequence[Any]) -> None:
        """Let the program return ``values``."""
        self.program.output_node.args = (tuple(values),)
        self._note_change()

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nobody uses."""
        for listener in self._listeners:
            listener.erased(node)
        self.program.graph.erase_node(node)
        self._note_change()

    def erase_dead(self) -> int:
        """Remove calls whose results nobody uses.

        Random ones stay, since they advance a generator, and so do transfers, which other ranks wait for.
        """
        count = 0
        for node in reversed(list(self.program.nodes)):
            needed = node.users or has_trait(node, Trait.RANDOM) or isinstance(node.target, TransferOp)
            if node.op == "call_function" and not needed:
                self.erase(node)
                count += 1
        return count

    def _note_change(self) -> None:
        self.changes += 1
        self.program.findings.clear()

    def _touch(self, node: fx.Node) -> None:
        set_info(node, replace(info(node), provenance=Provenance(self._by, (node.name,))))
        self._note_change()


def _unplaced(kind: ValueType) -> ValueType:
    if isinstance(kind, TensorType):
        return kind.unplaced
    return TupleType(tuple(None if e is None else e.unplaced for e in kind.elements))
