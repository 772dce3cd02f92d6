"""Passes that others have registered, by name."""

from __future__ import annotations

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError

_registered: dict[str, type[ir.Pass]] = {}


def register_pass(step: type[ir.Pass]) -> type[ir.Pass]:
    """Make a pass known by its ``name``, for ``passes="default,<name>"``. May be used as a decorator.

    Raises:
        InvalidArgumentError: it is no pass, has no name, or the name is taken.
    """
    if not (isinstance(step, type) and issubclass(step, ir.Pass)):
        raise InvalidArgumentError(f"{step!r} is not a subclass of fastvideo.Pass")
    name = getattr(step, "name", None)
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"pass {step.__name__} has no name", hint="set the class attribute 'name'")
    if _registered.get(name, step) is not step:
        raise InvalidArgumentError(f"a pass called {name!r} is registered already")
    _registered[name] = step
    return step


def registered() -> dict[str, type[ir.Pass]]:
    """All registered passes by name."""
    return dict(_registered)
