"""What compiling has found, kept on disk: captures, with their verdict, and plans.

A capture is kept under a digest of all that it follows from: the model's live code, attributes and kinds of weights
(:mod:`fastvideo.frontends.capture.fingerprint`), the call's signature, process-wide settings of torch, and what is
installed. What it has read out of tensors is a guard, which is evaluated on the values of the call at hand before it is
used. A plan is a function of the captured program, the passes and the machine, and is kept under a digest of these.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo_ir.errors import ParseError

from .backends import attention
from .frontends.capture import Captured
from .frontends.capture.checks import check_ambient, check_model, device_of
from .frontends.capture.fingerprint import NoFingerprintError, fingerprint
from .frontends.capture.python_state import warn_of_frozen_state
from .frontends.capture.signature import BoundCall
from .frontends.capture.stored import from_stored, to_stored
from .frontends.capture.tree_text import NoTextError
from .passes.plan_sharding import has_rule
from .runtime.disk_cache import DiskCache
from .runtime.numerics import numeric_settings
from .settings import Settings

FORMAT = 1
_UNREADABLE = (NoTextError, ParseError, KeyError, TypeError, ValueError, AttributeError)


class PlanCache:
    """Captures and plans of one model on disk.

    Attributes:
        note: what became of the last capture: read, made anew and kept, or not kept and why. Empty without a cache.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._files = DiskCache(settings.cache_directory) if settings.cache_directory is not None else None
        self._key: str | None = None
        self.note = ""

    def capture_of(self, call: BoundCall) -> Captured | None:
        """A capture that holds for this call, or None. Raises what capturing does for a model that is refused."""
        self._key = None
        if self._files is None:
            return None
        module, place = check_model(self._model), device_of(self._model, call.tensors)
        check_ambient(place)
        try:
            self._key = f"capture-{self._capture_key(module, call, place)}"
        except NoFingerprintError as error:
            self.note = f"capture not kept: {error}"
            return None
        for entry in self._files.load(self._key):
            try:
                with torch.inference_mode(False):
                    found = from_stored(entry.data, entry.tensors, module, call, place)
                if found.guards is not None and found.guards.changed(found.params, call.tensors) is not None:
                    continue
            except _UNREADABLE as error:
                self._files.discard(entry.name, str(error))
                continue
            self._files.used(entry.name)
            self.note = f"capture read from {self._files.directory}"
            warn_of_frozen_state(module, found.report.frozen)
            return found
        self.note = f"capture made anew, kept in {self._files.directory}"
        return None

    def keep_capture(self, captured: Captured) -> None:
        """Keep the capture that was made in place of the one that :meth:`capture_of` did not find."""
        if self._files is None or self._key is None:
            return
        try:
            data, tensors = to_stored(captured, check_model(self._model))
        except NoTextError as error:
            self.note = f"capture not kept: {error}"
            return
        guards = captured.guards
        variant = "" if guards is None else _digest(*(guards.value(index) for index in range(len(guards.expected))))
        self._files.store(f"{self._key}-{variant[:16]}", data, tensors)

    def plan_key(self, program: ir.Program, passes: Sequence[ir.Pass]) -> str | None:
        """Where the plan of ``passes`` for ``program`` is kept.

        None where plans are not: the cache is off; a pass decides by running the program, may do more than change it
        (those of users), or is watched; an op is unknown, of which planning warns; or something has no digest or text.
        """
        settings, known = self._settings, ir.ops.registry.ops.values()
        own = all(type(step).__module__.startswith(f"{__package__}.passes.") for step in passes)
        if self._files is None or not own or settings.quantization is not None or settings.dump is not None:
            return None
        if program.functions or not all(map(has_rule, program.nodes)):
            return None
        ops = [(op.name, op.traits, op.rule, op.localize, op.flops, op.expansion) for op in known]
        try:
            made_by = fingerprint(list(map(repr, passes)), list(attention.backends().values()), ops)
            text = ir.print_program(program)
        except (NoFingerprintError, ParseError):
            return None
        return f"plan-{_digest(FORMAT, _surroundings(), _device(settings.device), made_by, text)[:40]}"

    def plan_at(self, key: str) -> ir.Program | None:
        """The plan that is kept there, or None."""
        assert self._files is not None
        for entry in self._files.load(key):
            try:
                found = ir.parse_program(entry.data["program"])
            except _UNREADABLE as error:
                self._files.discard(entry.name, str(error))
                continue
            self._files.used(entry.name)
            return found
        return None

    def keep_plan(self, key: str, planned: ir.Program) -> None:
        assert self._files is not None
        with suppress(ParseError):  # a pass of the user's may make what has no text
            self._files.store(key, {"program": ir.print_program(planned)}, {})

    def _capture_key(self, module: nn.Module, call: BoundCall, place: torch.device) -> str:
        structure = fingerprint(call.signature.tensors, call.paths, _shown(call.signature.arguments))
        settings = (self._settings.verify, torch.get_default_dtype(), numeric_settings())
        return _digest(FORMAT, _surroundings(), _device(place), settings, structure, fingerprint(module))[:40]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _shown(tree: Any) -> Any:
    """The structure of arguments without the functions that build them."""
    children = getattr(tree, "children", None)
    if children is None:
        return getattr(tree, "key", None) or ("tensor", getattr(tree, "index", None))
    return (tree.type, tree.context, tree.names, [_shown(child) for child in children])


@lru_cache(maxsize=1)
def _surroundings() -> str:
    """Versions of all that is installed, and the source of this project."""
    paths = [Path(path) for path in sys.path if path]
    installed = sorted({entry.name for path in paths if path.is_dir() for entry in path.glob("*.dist-info")})
    sources = hashlib.sha256()
    for package in (sys.modules[__name__.partition(".")[0]], ir):
        for folder, folders, files in os.walk(package.__path__[0], followlinks=True):
            folders.sort()
            for file in sorted(name for name in files if name.endswith(".py")):
                sources.update((Path(folder) / file).read_bytes())
    cpu = torch.backends.cpu.get_cpu_capability()
    return _digest(sys.version, platform.machine(), cpu, torch.__version__, installed, sources.hexdigest())


def _device(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
