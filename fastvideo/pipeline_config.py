"""How a pipeline is loaded and compiled, as one object that a file can hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from .backends.attention import Wish
from .config_files import read_mapping, write_mapping
from .parallel import Parallel


@dataclass(frozen=True)
class PipelineConfig:
    """Arguments of :meth:`VideoGenerator.from_pretrained`, of the same names; None is its default.

    >>> VideoGenerator.from_pretrained(path, config=PipelineConfig(num_gpus=4, flow_shift=8))
    """

    num_gpus: int | None = None
    parallel: Parallel | None = None
    attention_backend: Wish | None = None
    quantization: str | None = None
    cache: str | None = None
    executor: str | None = None
    device: str | torch.device | None = None
    dtype: str | torch.dtype | Mapping[str, str | torch.dtype] | None = None
    passes: Any = None
    flow_shift: float | None = None
    compile_encoders: bool | None = None
    compile_vae: bool | None = None
    offload: str | None = None
    max_memory: int | str | None = None
    cuda_graphs: bool | None = None

    def __new__(cls, *given: Any, **named: Any) -> Self:
        """Refuses unknown names as all of the face does. Raises UnknownNameError."""
        _refuse_unknown(cls, named)
        return super().__new__(cls)

    @classmethod
    def load(cls, file: str | os.PathLike[str], **overrides: Any) -> Self:
        """From a YAML or JSON file; ``overrides`` go before it.

        Raises:
            InvalidArgumentError: the file cannot be read, or is no mapping.
            UnknownNameError: an entry has another name; tells the nearest.
        """
        entries = {str(name): value for name, value in read_mapping(file).items()}
        _refuse_unknown(cls, {**entries, **overrides})
        if isinstance(entries.get("parallel"), Mapping):
            entries["parallel"] = Parallel(**entries["parallel"])
        return cls(**{**entries, **overrides})

    def dump(self, file: str | os.PathLike[str]) -> None:
        """Write what is given as YAML or JSON, for :meth:`load`; a file that is there is written over.

        Raises:
            InvalidArgumentError: the file cannot be written, or a value is an object that a file cannot hold.
        """
        write_mapping(file, {name: _plain(name, value) for name, value in self.given().items()})

    def given(self) -> dict[str, Any]:
        """The arguments that are not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _refuse_unknown(config: type[PipelineConfig], names: Iterable[str]) -> None:
    known = [field.name for field in fields(config)]
    for name in names:
        if name not in known:
            raise UnknownNameError("entry of a pipeline config", name, known)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Parallel):
        untouched = asdict(Parallel())
        return {key: part for key, part in asdict(value).items() if part != untouched[key]}
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {key: _plain(name, part) for key, part in value.items()}
    if isinstance(value, str | int | float):
        return value
    raise InvalidArgumentError(f"{name}={value!r} cannot be written to a file", hint="give it as text, if it has one")
