"""A denoiser of one's own in the place of the family's: it is called with what its forward takes."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor

import fastvideo_ir as ir

from ...frontends.families import Family

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class OwnDenoiser:
    """Calls a compiled model as the family's own denoiser is called, and leaves out what it does not take.

    Latents go to the argument of the family's name for them, or else to the first one.

    Args:
        model: the compiled model, or any callable with its signature.
        signature: of the model's forward.
        name: of the model, for texts.
        family: of the pipeline.

    Raises:
        InvalidArgumentError: the forward takes no latents, or needs an argument that no pipeline of the family has.
    """

    def __init__(self, model: Any, signature: inspect.Signature, name: str, family: Family) -> None:
        self.model = model
        parameters = signature.parameters.values()
        told = [family.latents_argument, family.timestep_argument, *family.text, *family.inputs, "return_dict"]
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self._latents = family.latents_argument
        first = next((p.name for p in parameters if p.kind in _POSITIONAL), None)
        self._latents_first = not self._takes_all and self._latents not in self._names
        if self._latents_first and first is None:
            raise ir.errors.InvalidArgumentError(
                f"{name}.forward takes no latents", hint=f"give it an argument called {self._latents!r}"
            )
        given = {*told, first} if self._latents_first else set(told)
        missing = [p.name for p in parameters if p.default is p.empty and _is_single(p) and p.name not in given]
        if missing:
            raise ir.errors.InvalidArgumentError(
                f"{name}.forward needs {', '.join(missing)}, which a {family.name} pipeline does not have",
                hint=f"it may take {', '.join(told)}",
            )
        left_out = [n for n in told[1:-1] if not self._takes_all and n not in self._names]
        if left_out:
            warnings.warn(f"{name}.forward takes no {', '.join(left_out)}: it is not told of them", stacklevel=2)

    def __call__(self, **inputs: Any) -> tuple[Tensor, ...]:
        """The prediction, in a tuple."""
        args = (inputs.pop(self._latents),) if self._latents_first else ()
        taken = {name: value for name, value in inputs.items() if self._takes_all or name in self._names}
        output = self.model(*args, **taken)
        return (output,) if isinstance(output, Tensor) else tuple(output)

    def __getattr__(self, name: str) -> Any:
        """``explain``, ``set_step`` and whatever else there is of a compiled model."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.model, name)


def _is_single(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
