"""Recipes: what is made of a model's tensor, once, before the ranks take their pieces of it.

A param with a recipe holds the result: codes of a quantized weight, say, or their scales. The recipe sees the whole
tensor, so that every rank's piece is a piece of the same result, however the param is placed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .errors import InvalidArgumentError, ParseError

Recipe = Callable[[Tensor], Tensor]
"""Must be functional, and run on meta tensors as well, where only shape and dtype are asked for."""

_recipes: dict[str, Recipe] = {}


def register_recipe(name: str, recipe: Recipe) -> None:
    """Make a recipe known under ``name``, which programs carry as text.

    Raises:
        InvalidArgumentError: the name is taken.
    """
    if name in _recipes:
        raise InvalidArgumentError(f"recipe {name!r} is registered already")
    _recipes[name] = recipe


def recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ParseError: there is none.
    """
    if name not in _recipes:
        raise ParseError(f"unknown recipe {name!r}; known: {', '.join(sorted(_recipes)) or 'none'}")
    return _recipes[name]
