"""Between a model's own call and the flat tensors of a program."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastvideo_ir.errors import InvalidArgumentError

from . import tree
from .signature import Signature, bind
from .tree import ConstantLeaf, TensorLeaf, Tree


@dataclass(frozen=True)
class CallSpec:
    """How a call becomes flat tensors, and how flat results become the model's return value.

    Attributes:
        forward: parameters of the model's ``forward``.
        owner: class name of the model, for error texts.
        signature: the only signature that the program serves.
        output: structure of the return value.
        paths: path of each flat input among the arguments, e.g. ``states[0]``.
    """

    forward: inspect.Signature
    owner: str
    signature: Signature
    output: Tree
    paths: tuple[str, ...]

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors of a call, in the order of ``program.input_nodes``.

        Raises:
            InvalidArgumentError: the call has another signature than the program; names the argument.
        """
        call = bind(self.forward, self.owner, args, kwargs)
        if call.signature != self.signature:
            raise InvalidArgumentError(_difference(self.signature, call.signature, self.paths, call.paths))
        return call.tensors

    def unflatten(self, flat_outputs: Sequence[torch.Tensor]) -> Any:
        """The model's return value from the program's results.

        Raises:
            InvalidArgumentError: the number of results is not the program's.
        """
        expected = 1 + max(leaf.index for _, leaf in tree.leaves(self.output) if isinstance(leaf, TensorLeaf))
        if len(flat_outputs) != expected:
            raise InvalidArgumentError(f"got {len(flat_outputs)} results; the program returns {expected}")
        return tree.unflatten(self.output, flat_outputs)


def _difference(expected: Signature, got: Signature, expected_paths: Sequence[str], got_paths: Sequence[str]) -> str:
    """One sentence about the first argument in which two signatures differ."""
    want, have = dict(tree.leaves(expected.arguments)), dict(tree.leaves(got.arguments))
    for path in [*want, *(path for path in have if path not in want)]:
        if path not in have:
            return f"argument {path!r} is missing; the program was captured with it"
        if path not in want:
            return f"argument {path!r} was not there when the program was captured"
        left, right = _leaf_text(want[path], expected), _leaf_text(have[path], got)
        if left != right:
            return f"argument {path!r} is {right}; the program was captured with {left}"
    if tuple(expected_paths) != tuple(got_paths):
        shared = next(path for path in [*expected_paths, *got_paths] if (path in expected_paths) != (path in got_paths))
        return f"argument {shared!r} is the same tensor as another argument in one of the two calls alone"
    return "the arguments are held by other container types than those that the program was captured with"


def _leaf_text(leaf: TensorLeaf | ConstantLeaf, signature: Signature) -> str:
    if isinstance(leaf, TensorLeaf):
        return f"a tensor {signature.tensors[leaf.index]}"
    return repr(leaf.value)
