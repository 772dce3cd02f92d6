"""``fastvideo.compile`` of a whole Diffusers pipeline: the modules that it calls become compiled programs, in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from torch import nn

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from .compiler import CompiledModel
from .frontends.capture.checks import check_model
from .ranks import Ranks
from .settings import Settings

_PIPELINE = "diffusers.pipelines.pipeline_utils.DiffusionPipeline"


class CompiledPipeline:
    """A Diffusers pipeline whose modules run as compiled programs, all on the same ranks; called as the pipeline is.

    The pipeline itself is what changes: whoever holds it, or one of its modules, has the compiled one. :meth:`close`
    makes it as it was. What is asked of this object and is not below is asked of the pipeline.
    """

    def __init__(self, pipeline: Any, settings: Settings, components: Sequence[str] | None) -> None:
        found = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        for name in components or ():
            if name not in found:
                raise UnknownNameError(f"module of {type(pipeline).__name__}", name, found)
        self._pipeline = pipeline
        self._compiled: dict[str, CompiledModel] = {}
        with ExitStack() as restore:
            ranks = Ranks()
            for name in components or found:
                module = check_model(found[name])
                method = "decode" if callable(getattr(module, "decode", None)) else "forward"
                if method in vars(module):
                    raise InvalidArgumentError(
                        f"{name}.{method} of {type(pipeline).__name__} has been replaced already",
                        hint="close what replaced it first; modules with offloading hooks cannot be compiled",
                    )
                # The same weights and submodules, but its own table of attributes, in which nothing is replaced.
                own = copy.copy(module)
                target = own if method == "forward" else _as_module(own, method)
                compiled = CompiledModel(target, settings, ranks, whole_if_idle=True)
                restore.callback(compiled.close)
                setattr(module, method, compiled)
                restore.callback(delattr, module, method)
                self._compiled[name] = compiled
            self._restore = restore.pop_all()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline."""
        return self._pipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._pipeline, name)

    def __repr__(self) -> str:
        return f"<compiled {type(self._pipeline).__name__}: {', '.join(map(repr, self._compiled.values()))}>"

    @property
    def compiled(self) -> dict[str, CompiledModel]:
        """The compiled modules by the pipeline's names for them."""
        return dict(self._compiled)

    def explain(self) -> str:
        """What the compiler did with each module."""
        return "\n\n".join(f"{name}\n{model.explain()}" for name, model in self._compiled.items())

    def update_weights(self) -> None:
        """Read the modules' weights anew, after they have been changed on purpose."""
        for model in self._compiled.values():
            model.update_weights()

    def close(self) -> None:
        """End the ranks and make the pipeline as it was. Idempotent."""
        self._restore.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_module(module: nn.Module, method: str) -> nn.Module:
    """A module whose forward is another one's method, under a name that says so."""
    made: nn.Module = type(f"{type(module).__name__}.{method}", (nn.Module,), {})()
    made.module = module
    made.__dict__["forward"] = getattr(module, method)
    return made.train(module.training)


def is_pipeline(value: object) -> bool:
    """Whether it is a Diffusers pipeline; does not import diffusers to find out."""
    return any(f"{base.__module__}.{base.__name__}" == _PIPELINE for base in type(value).__mro__)
