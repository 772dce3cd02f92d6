"""What others add: passes, attention backends, ops."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError
from fastvideo_ir.graph import result_types, tensor_operands

from .backends import attention
from .passes.registry import register_pass

__all__ = [
    "check_importable",
    "load_plugins",
    "register_attention_backend",
    "register_op",
    "register_pass",
    "worker_plugins",
]

ENTRY_POINTS = "fastvideo.plugins"
Backend = TypeVar("Backend", bound=type[attention.AttentionBackend])
_homes: dict[str, None] = {}
_nowhere: dict[Any, str] = {}
"""Ops whose code no other process can import, and what they are."""


def register_attention_backend(backend: Backend) -> Backend:
    """Make an attention backend known by its ``name``; every model can use it. May be used as a decorator.

    The newest backend is asked first by ``auto``. Worker processes import the module that defines the class, so that
    with several ranks it has to be an importable module, or a script whose work is under ``if __name__ == "__main__"``.

    Raises:
        InvalidArgumentError: it is no backend, or the name is taken.
    """
    if not (isinstance(backend, type) and issubclass(backend, attention.AttentionBackend)):
        raise InvalidArgumentError(f"{backend!r} is not a subclass of fastvideo.AttentionBackend")
    instance = backend()
    attention.register(instance)
    _remember_home(backend.__module__, attention.op_of(instance), f"attention backend {backend.name}")
    return backend


def register_op(
    op: Any, rule: str, *, flops: Callable[..., int] | None = None, localize: Callable[..., Any] | None = None
) -> None:
    """Teach the compiler how a custom op may be sharded.

    Args:
        op: an overload such as ``torch.ops.mylib.scan.default``.
        rule: dims of operands and results in einsum notation, ``"b s c, c -> b s c"``; a letter in square brackets,
            ``"b [s] c"``, must be whole on every rank; one that the results lack must be whole too.
        flops: FLOPs at global shapes, from the shapes of the tensor operands.
        localize: for ops that take shapes as arguments; see :class:`fastvideo_ir.OpDef`.

    Raises:
        InvalidArgumentError: the op is known already, is no overload, or the rule cannot be read.
    """
    if not isinstance(op, torch._ops.OpOverload):
        raise InvalidArgumentError(f"{op!r} is no op overload; expected e.g. torch.ops.mylib.scan.default")
    operands, results = _read_rule(rule)
    if localize is None:
        _refuse_new_dims(rule, operands, results)

    def factor_rule(node: torch.fx.Node) -> ir.FactorRule:
        return _rule_for(node, operands, results)

    count = (lambda node: flops(*(ir.tensor_type(o).shape for o in tensor_operands(node)))) if flops else None
    ir.ops.registry.register(ir.OpDef(op, str(op), rule=factor_rule, flops=count, localize=localize))
    _remember_home(sys._getframe(1).f_globals["__name__"], op, f"op {op}")


def _read_rule(rule: str) -> tuple[list[list[str]], list[list[str]]]:
    left, arrow, right = rule.partition("->")
    if not arrow or not right.strip():
        raise InvalidArgumentError(f"cannot read rule {rule!r}; expected e.g. 'b s c, c -> b s c'")
    sides = [[tensor.split() for tensor in side.split(",")] for side in (left, right)]
    names = {name for side in sides for tensor in side for name in tensor}
    for name in sorted(names):
        letter = name[1:-1] if name.startswith("[") and name.endswith("]") else name
        if not letter.isidentifier():
            raise InvalidArgumentError(f"{name!r} in rule {rule!r} is not the name of a dim")
        if f"[{name}]" in names:
            raise InvalidArgumentError(f"{name!r} is written with and without brackets in rule {rule!r}")
    return sides[0], sides[1]


def _refuse_new_dims(rule: str, operands: list[list[str]], results: list[list[str]]) -> None:
    """A dim that no operand has is made by the op, which knows nothing of ranks."""
    read = {name for tensor in operands for name in tensor}
    for name in (name for tensor in results for name in tensor):
        if name not in read and not name.startswith("["):
            raise InvalidArgumentError(
                f"dim {name!r} of the result in rule {rule!r} is in no operand",
                hint=f"write [{name}]: every rank has all of it",
            )


def _rule_for(node: torch.fx.Node, operands: list[list[str]], results: list[list[str]]) -> ir.FactorRule:
    kinds = [ir.tensor_type(operand) for operand in tensor_operands(node)]
    kinds += [kind for kind in result_types(node) if kind is not None]
    names = [*operands, *results]
    if len(kinds) != len(names) or any(len(k.shape) != len(n) for k, n in zip(kinds, names, strict=True)):
        raise InvalidArgumentError(f"the rule of {node.target} does not fit its operands {[str(k) for k in kinds]}")
    produced = {name for tensor in results for name in tensor}
    builder = ir.RuleBuilder()
    factors: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for tensor, kind in zip(names, kinds, strict=True):
        for name, size in zip(tensor, kind.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise InvalidArgumentError(
                    f"dim {name!r} in the rule of {node.target} has two sizes, {sizes[name]} and {size}",
                    hint="give them two names",
                )
            if name not in factors:
                is_whole = name.startswith("[") or name not in produced
                factors[name] = builder.whole(size) if is_whole else builder.factor(size)
    expressions = [[factors[name] for name in tensor] for tensor in names]
    return builder.rule(expressions[: len(operands)], expressions[len(operands) :])


def _remember_home(module: str, op: Any, what: str) -> None:
    """Note where workers find the code of ``op``."""
    if module != "__main__":
        _homes[module] = None
        return
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file and Path(file).suffix == ".py":
        _homes[str(Path(file).resolve())] = None
    else:
        _nowhere[op] = what


def worker_plugins() -> list[str]:
    """Modules and files that worker processes must import for what they register."""
    return [*_homes, *(entry.module for entry in _entry_points())]


def check_importable(program: ir.Program) -> None:
    """Refuse ops that worker processes could not run.

    Raises:
        InvalidArgumentError: an op was registered in a notebook or on stdin.
    """
    for node in program.nodes:
        if node.op == "call_function" and node.target in _nowhere:
            raise InvalidArgumentError(
                f"{_nowhere[node.target]} is defined in a notebook or on stdin, "
                "where worker processes cannot import it",
                hint="put it into a .py file and import it, or run on one rank",
            )


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import what installed packages announce under the entry point ``fastvideo.plugins``. Once."""
    for entry in _entry_points():
        entry.load()


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=ENTRY_POINTS))
