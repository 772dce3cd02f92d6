"""A module of which a method becomes a compiled program, in place: whoever holds the module calls the program."""

from __future__ import annotations

import copy
from contextlib import ExitStack

from torch import nn

from fastvideo_ir.errors import InvalidArgumentError

from .compiler import CompiledModel
from .frontends.capture.checks import check_model
from .ranks import Ranks
from .runtime.turns import Turns
from .settings import Settings


def compile_in_place(
    module: nn.Module,
    name: str,
    owner: str,
    settings: Settings,
    ranks: Ranks,
    restore: ExitStack,
    turns: Turns | None,
    *,
    stays: bool = False,
) -> CompiledModel:
    """Compile what pipelines call of a module: ``decode`` of autoencoders, else ``forward``.

    Args:
        module: in eval mode.
        name, owner: of the module and of what it is a part of, for texts.
        settings: of the program, which runs on one rank where it cannot be divided.
        ranks: to run on.
        restore: is told how to make the module as it was.
        turns: by which others leave for it.
        stays: its own weights do not leave, since they are read without the program too.

    Raises:
        InvalidArgumentError: the method has been replaced already.
    """
    module = check_model(module)
    method = "decode" if callable(getattr(module, "decode", None)) else "forward"
    if method in vars(module):
        raise InvalidArgumentError(
            f"{name}.{method} of {owner} has been replaced already",
            hint="close what replaced it first; modules with offloading hooks cannot be compiled",
        )
    # The same weights and submodules, but its own table of attributes, in which nothing is replaced.
    own = copy.copy(module)
    target = own if method == "forward" else _as_module(own, method)
    compiled = CompiledModel(target, settings, ranks, whole_if_idle=True, turns=turns, stays=stays)
    restore.callback(compiled.close)
    setattr(module, method, compiled)
    restore.callback(delattr, module, method)
    return compiled


def _as_module(module: nn.Module, method: str) -> nn.Module:
    """A module whose forward is another one's method, under a name that says so."""
    made: nn.Module = type(f"{type(module).__name__}.{method}", (nn.Module,), {})()
    made.module = module
    made.__dict__["forward"] = getattr(module, method)
    return made.train(module.training)
