"""Error texts: what is wrong, at which node, where in the model, with ten nodes around it."""

from __future__ import annotations

from torch import fx

from .errors import VerificationError
from .program import INFO_KEY, Program, info
from .text import print_node

CONTEXT = 5


def excerpt(program: Program, node: fx.Node, context: int = CONTEXT) -> str:
    """The lines around ``node``, with an arrow at it."""
    nodes = list(program.nodes)
    at = nodes.index(node)
    lines = []
    for other in nodes[max(0, at - context) : at + context + 1]:
        text = print_node(other, program, locations=False) if _printable(other) else str(other.format_node())
        lines.append(f"{'-->' if other is node else '   '} {text}")
    return "\n".join(lines)


def _printable(node: fx.Node) -> bool:
    return node.op == "output" or (node.op in ("placeholder", "call_function") and INFO_KEY in node.meta)


def node_error(
    program: Program, node: fx.Node, code: str, message: str, *, hint: str | None = None
) -> VerificationError:
    """An error that names the node, the model's own line and the surroundings.

    Args:
        code: a stable short name of the broken rule, e.g. ``placement-mismatch``.
        message: what was found and what was expected.
    """
    place = info(node).location if INFO_KEY in node.meta else None
    origin = f" ({place})" if place else ""
    text = f"[{code}] %{node.name}{origin}: {message}\n{excerpt(program, node)}"
    return VerificationError(text, hint=hint)
