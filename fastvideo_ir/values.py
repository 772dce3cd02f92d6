"""Single tensors: a node may yield several, and taking one out of a row makes no new one."""

from __future__ import annotations

from torch import fx

from .graph import is_getitem

Value = tuple[fx.Node, int]
"""One tensor: the node that makes it, and the number among its results."""


def tensor_of(node: fx.Node) -> Value:
    """The tensor that ``node`` stands for."""
    if is_getitem(node):
        source, number = node.args
        assert isinstance(source, fx.Node) and isinstance(number, int)
        return source, number
    return node, 0
