"""Which module and which source line a traced node comes from."""

from __future__ import annotations

import inspect
import os
import re
import sys

import torch
from torch import fx, nn

from fastvideo_ir.program import Location

from .trace import FlatModel

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Locator:
    """Finds a node's :class:`Location` in what tracers record.

    A model's own source is the packages, or lone files, that define its module classes; torch's are not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._roots = tuple({root for module in model.modules() for root in _source_roots(type(module))})

    def is_own(self, file: str) -> bool:
        """Whether ``file`` is the model's own source."""
        return bool(self._roots) and file.startswith(self._roots)

    def of_error(self, error: BaseException) -> str:
        """The innermost own line that an error passed through or speaks of, as ``file:line``; empty where none."""
        frames: list[tuple[str, int]] = []
        traceback = error.__traceback__
        while traceback is not None:
            frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
            traceback = traceback.tb_next
        frames += [(match["file"], int(match["line"])) for match in _FRAME.finditer(str(error))]
        own = [frame for frame in frames if self.is_own(frame[0])]
        return f"{own[-1][0]}:{own[-1][1]}" if own else ""

    def __call__(self, node: fx.Node) -> Location:
        frames = [(match["file"], int(match["line"])) for match in _FRAME.finditer(node.stack_trace or "")]
        own = [frame for frame in frames if self.is_own(frame[0])]
        foreign = [frame for frame in frames if not frame[0].startswith((_TORCH, _HERE))]
        file, line = (own or foreign or [("", 0)])[-1]
        return Location(module_path(node), file, line)


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that was running, without tracer-made prefixes."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    if not paths:
        return ""
    return _clean(str(paths[-1]))


def _clean(path: str) -> str:
    # A module that is called twice is recorded as "block@1" the second time.
    path = re.sub(r"__dict__\['_modules'\]\['([^']+)'\]", r"\1", path.split("@")[0])
    if path == FlatModel.PREFIX.rstrip("."):
        return ""
    return path.removeprefix(FlatModel.PREFIX)


def _source_roots(module_type: type[nn.Module]) -> list[str]:
    top = module_type.__module__.partition(".")[0]
    if top == "torch":
        return []
    package = sys.modules.get(top)
    paths = [os.path.abspath(path) + os.sep for path in getattr(package, "__path__", [])]
    if paths:
        return paths
    code = getattr(inspect.unwrap(module_type.forward), "__code__", None)
    return [code.co_filename] if code else []
