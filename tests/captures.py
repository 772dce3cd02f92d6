"""Captures that tests share: where a test is about what follows, no model has to be captured anew for each mesh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch import nn

import fastvideo.compiler
import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured, Signature, capture, signature_of

from .models import ModelCase


@dataclass
class Captures:
    """What has been captured of one model, whose weights stay as they are. Each user gets a copy."""

    model: nn.Module
    known: list[Captured] = field(default_factory=list)

    def capture(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Captured:
        """As the real one, but for what is captured already."""
        assert model is self.model
        signature = signature_of(model, args, kwargs)
        found = next((one for one in self.known if _serves(one, args, kwargs, signature)), None)
        if found is None:
            found = capture(model, args, kwargs, **options)
            self.known.append(found)
        guards = replace(found.guards, program=found.guards.program.copy()) if found.guards else None
        return replace(found, program=found.program.copy(), guards=guards)

    @contextmanager
    def compiled(self, *ranks: int, **options: Any) -> Iterator[fastvideo.CompiledModel]:
        """``fastvideo.compile`` for the CPU, with captures from here; they are not verified."""
        with (
            mock.patch.object(fastvideo.compiler, "capture", self.capture),
            fastvideo.compile(self.model, *ranks, device="cpu", verify=False, **options) as compiled,
        ):
            yield compiled


def _serves(known: Captured, args: tuple[Any, ...], kwargs: dict[str, Any], signature: Signature) -> bool:
    """Whether a call has the signature that was captured, and its inputs the values that the model reads in Python."""
    if known.call.signature != signature:
        return False
    return known.guards is None or known.guards.changed(known.params, known.call.flatten(args, kwargs)) is None


@lru_cache(maxsize=8)
def captures_of(case: ModelCase, dtype: torch.dtype = torch.float32) -> Captures:
    """Those of one model, built once in a process: leave its weights alone."""
    return Captures(case.build(dtype))


def program_of(case: ModelCase) -> ir.Program:
    """The model as it was captured, for the caller to change."""
    shared = captures_of(case)
    return shared.capture(shared.model, (), case.inputs(0)).program
