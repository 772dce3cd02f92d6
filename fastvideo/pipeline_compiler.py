"""``fastvideo.compile`` of a whole Diffusers pipeline: the modules that it calls become compiled programs, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from torch import nn

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from .compiler import CompiledModel
from .in_place import compile_in_place
from .ranks import Ranks
from .residency import LIKELY_FITS
from .runtime.devices import bytes_on
from .runtime.turns import Turns
from .settings import Settings

_PIPELINE = "diffusers.pipelines.pipeline_utils.DiffusionPipeline"


class CompiledPipeline:
    """A Diffusers pipeline whose modules run as compiled programs, all on the same ranks; called as the pipeline is.

    The pipeline itself is what changes: whoever holds it, or one of its modules, has the compiled one. :meth:`close`
    makes it as it was. What is asked of this object and is not below is asked of the pipeline.
    """

    def __init__(self, pipeline: Any, settings: Settings, components: Sequence[str] | None) -> None:
        found = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        owner = type(pipeline).__name__
        for name in components or ():
            if name not in found:
                raise UnknownNameError(f"module of {owner}", name, found)
        turns = _turns({name: found[name] for name in components or found}, settings)
        self._pipeline = pipeline
        self._compiled: dict[str, CompiledModel] = {}
        with ExitStack() as restore:
            ranks = Ranks()
            for name in components or found:
                self._compiled[name] = compile_in_place(found[name], name, owner, settings, ranks, restore, turns)
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


def _turns(modules: Mapping[str, nn.Module], settings: Settings) -> Turns | None:
    """What the modules take turns by, where they are asked to or do not fit on a device together."""
    sizes = {name: sum(p.numel() * p.element_size() for p in module.parameters()) for name, module in modules.items()}
    asked = settings.offload in ("sequential", "blocks")
    short = settings.offload == "auto" and 0 < settings.memory < sum(sizes.values()) / LIKELY_FITS
    there = [name for name, module in modules.items() if bytes_on(module, settings.device)]
    if asked and there:
        raise InvalidArgumentError(
            f"offload={settings.offload!r} keeps weights in the host's memory, and those of {', '.join(there)} are on "
            f"{settings.device}",
            hint="leave the pipeline on the CPU",
        )
    return Turns() if asked or (short and not there) else None


def is_pipeline(value: object) -> bool:
    """Whether it is a Diffusers pipeline; does not import diffusers to find out."""
    return any(f"{base.__module__}.{base.__name__}" == _PIPELINE for base in type(value).__mro__)
