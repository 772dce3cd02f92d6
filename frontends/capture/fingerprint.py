"""A digest of all that a model computes with next to its weights: code, attributes, and the globals that code reads.

It is taken of live objects, not of source files, so that a file that was edited after its import, a method that was
replaced and a cell of a notebook count for what they are. Equal digests in two processes mean equal captures.

* Of a function: its code with constants and line numbers, defaults, what it closes over, and each global that it names;
  of a module among those the attributes that it names.
* Of an object: its class and attributes. Weights count by shape, dtype and identity, other tensors by value.
* Of a class: its members. Of classes of installed packages, and of private attributes of their objects, those alone
  that code reached so far names: libraries hold much that no call reads, and that differs from process to process.
* What belongs to Python, to torch or to this project counts by name; their versions are the caller's to add.
* What is read outside of this process does not count, but for environment variables whose names stand in the code.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range, slice)
_TORCH_ATOMS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_OWN = frozenset({__name__.partition(".")[0], "fastvideo_ir"})
_FOUNDATION = frozenset({*sys.stdlib_module_names, "torch", "numpy", "triton", *_OWN})
_WRAPPERS: dict[type, tuple[str, ...]] = {
    MethodType: ("__func__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset"),
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    type(functools.lru_cache(len)): ("__wrapped__",),
}
"""What stands around the code of others, and where that is."""
_NO_BEHAVIOUR = {
    "__doc__", "__dict__", "__weakref__", "__module__", "__annotations__", "__annotations_cache__",
    "__annotate__", "__annotate_func__", "__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl",
    "__static_attributes__", "__firstlineno__", "__match_args__", "__dataclass_params__", "__type_params__",
}  # fmt: skip
_SHOWING = {
    "__repr__", "__str__", "__dir__", "__sizeof__", "__del__", "__reduce__", "__reduce_ex__", "__getstate__",
    "__setstate__", "__getnewargs__", "__copy__", "__deepcopy__",
}  # fmt: skip
"""Members that show, copy or end an object."""
_STATE = frozenset(vars(nn.Module()))
"""What torch keeps in every module."""
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_MOST_BYTES = 1 << 30
_MOST_OBJECTS = 300_000


class NoFingerprintError(Exception):
    """Part of a model cannot be told apart from another value of it; the text says what."""


def fingerprint(*values: Any) -> str:
    """Hex digest of any values: models, structures of arguments, passes.

    Raises:
        NoFingerprintError: a value has no digest, or what it reaches is too much, or cannot be looked at.
    """
    try:
        return Fingerprint().of(values)
    except NoFingerprintError:
        raise
    except Exception as error:  # objects of others may raise anything when they are looked at
        raise NoFingerprintError(f"looking at what it reaches raised {type(error).__name__}: {error}") from error


class Fingerprint:
    """The digest in the making."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._names: set[str] = set()
        self._classes: dict[type, set[str]] = {}
        self._functions: list[tuple[FunctionType, str]] = []
        self._private: dict[str, list[tuple[str, Any]]] = {}

    def of(self, values: Iterable[Any]) -> str:
        for value in values:
            self._add(value, "")
        self._add_code_reached()
        variables = sorted(self._names & os.environ.keys())
        self.emit("environment", *(f"{name}={os.environ[name]}" for name in variables))
        return self._hash.hexdigest()

    def emit(self, *parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self._hash.update(b"%d:" % len(data) + data)

    def _add(self, value: Any, path: str) -> None:
        if isinstance(value, enum.Enum):
            self.emit("enum", qualified_name(type(value)), value.name)
        elif isinstance(value, _ATOMS):
            self.emit(type(value).__name__, repr(value))
        elif isinstance(value, (*_TORCH_ATOMS, np.dtype)):
            self.emit(type(value).__name__, value)
        elif id(value) in self._seen:
            self.emit("again", self._seen[id(value)])
        else:
            if len(self._seen) > _MOST_OBJECTS:
                raise NoFingerprintError(f"its code reaches more than {_MOST_OBJECTS} objects, by way of {path}")
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)  # an id is unique among what is alive
            self._add_object(value, path)

    def _add_object(self, value: Any, path: str) -> None:
        if isinstance(value, (torch.Tensor, list, tuple, dict)) and not _is_foundation(type(value).__module__):
            self._add(type(value), path)
        if isinstance(value, torch.Tensor):
            self.add_tensor(value, path)
        elif isinstance(value, np.ndarray):
            self._add_bytes(value.tobytes() if value.dtype != object else value.tolist(), (value.dtype, value.shape))
        elif isinstance(value, (type, FunctionType, CodeType, ModuleType)):
            self._add_definition(value, path)
        elif isinstance(value, (list, tuple)):
            self.emit(qualified_name(type(value)), len(value))
            self._add_all(((f"[{number}]", item) for number, item in enumerate(value)), path)
            self._add_attributes(value, path)
        elif isinstance(value, (dict, MappingProxyType)):
            self.emit(qualified_name(type(value)), len(value))
            for key, item in value.items():
                if self._is_read(type(value), key, item, path):
                    self._add(key, path)
                    self._add(item, f"{path}[{key!r}]")
            self._add_attributes(value, path)
        elif isinstance(value, (set, frozenset)):
            self.emit("set", *sorted(fingerprint(item) for item in value))
        elif isinstance(value, nn.Module):
            self._add_module(value, path)
        else:
            self.add_instance(value, path)

    def _add_all(self, items: Iterable[tuple[str, Any]], path: str) -> None:
        for name, item in items:
            self.emit(name)
            self._add(item, f"{path}.{name}" if path and name[0] != "[" else path + name)

    def add_tensor(self, tensor: torch.Tensor, path: str) -> None:
        self.emit("tensor", qualified_name(type(tensor)), tensor.dtype, tuple(tensor.shape), tensor.layout)
        if isinstance(tensor, nn.Parameter) or tensor.is_meta:
            return
        if tensor.layout is not torch.strided or tensor.nbytes > _MOST_BYTES:
            raise NoFingerprintError(f"{path} is a tensor that is too large, or not dense")
        self.emit(tensor.stride())
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        self._hash.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")

    def _add_bytes(self, data: Any, what: object) -> None:
        self.emit("array", what)
        self.emit(data if isinstance(data, bytes) else fingerprint(data))

    def _add_module(self, module: nn.Module, path: str) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise NoFingerprintError(f"{path} is a scripted module")
        self.emit("module")
        self._add(type(module), path)
        for name, value in vars(module).items():
            if not self._is_read(type(module), name, value, path):
                continue
            self.emit(name)
            if name == "_buffers":
                for key, buffer in value.items():  # weights: programs read them at every call
                    kind = None if buffer is None else (buffer.dtype, tuple(buffer.shape), buffer.stride())
                    self.emit(key, kind, self._seen.setdefault(id(buffer), len(self._seen)))
            elif name == "_modules":
                self._add_all(value.items(), path)
            elif "_hooks" in name and isinstance(value, dict):
                self._add_all(
                    (("[hook]", hook) for hook in value.values()), path
                )  # keys count hooks of the whole process
            else:
                self._add(value, f"{path}.{name}".lstrip("."))

    def add_instance(self, value: Any, path: str) -> None:
        kind = type(value)
        self.emit("object", qualified_name(kind))
        if isinstance(value, torch.jit.ScriptFunction):
            raise NoFingerprintError(f"{path} is a scripted function")
        if kind in _WRAPPERS:
            self._add_all(((name, getattr(value, name)) for name in _WRAPPERS[kind]), path)
            return
        if _is_foundation(kind.__module__):
            self.add_of_foundation(value, path)
            return
        self._add(kind, path)
        if not self.add_held(value, path) and kind.__basicsize__ > object.__basicsize__:
            text = shown(value)
            if text is None:
                raise NoFingerprintError(
                    f"{path or 'a value'} is a {qualified_name(kind)}, which does not show its value"
                )
            self.emit(text)

    def add_held(self, value: Any, path: str) -> bool:
        has_attributes = self._add_attributes(value, path)
        slots = [name for base in type(value).__mro__ for name in _slots(base) if hasattr(value, name)]
        self._add_all(((name, getattr(value, name)) for name in slots), path)
        return has_attributes or bool(slots)

    def add_of_foundation(self, value: Any, path: str) -> None:
        self.emit(shown(value) or "")

    def _add_attributes(self, value: Any, path: str) -> bool:
        held = getattr(value, "__dict__", None)
        if not isinstance(held, dict):
            return False
        self.emit("attributes")
        self._add_all(
            ((name, item) for name, item in held.items() if self._is_read(type(value), name, item, path)), path
        )
        return True

    def _is_read(self, kind: type, name: Any, item: Any, path: str) -> bool:
        """Whether an attribute or item counts now; one that is private to a library waits until code names it."""
        if not (isinstance(name, str) and name.startswith("_") and _is_installed(kind)) or name in _STATE:
            return True
        self._private.setdefault(name, []).append((f"{path}.{name}", item))
        return False

    def _add_definition(self, value: type | FunctionType | CodeType | ModuleType, path: str) -> None:
        if isinstance(value, ModuleType):
            self.emit("import", value.__name__)
        elif isinstance(value, CodeType):
            self._add_code(value, path)
        elif _is_foundation(value.__module__):
            self.emit("known", qualified_name(value))
            if isinstance(value, FunctionType) and value.__module__.partition(".")[0] in _OWN:
                self._add_closure(value, path)
        elif isinstance(value, type):
            self.emit("class", qualified_name(value))
            for base in value.__mro__:
                if not _is_foundation(base.__module__):
                    self._classes.setdefault(base, set())
            self._add_all((("base", base) for base in value.__mro__[1:]), path)
            self._add(type(value), path)
        else:
            self.emit("function", qualified_name(value), len(self._functions))
            self._functions.append((value, path))  # one after the other: calls can be nested deeper than Python's stack

    def _add_function(self, function: FunctionType, path: str) -> None:
        self.emit("function", qualified_name(function))
        self._add_code(function.__code__, path)
        self._add_all((("default", value) for value in function.__defaults__ or ()), path)
        self._add(function.__kwdefaults__, path)
        self._add_closure(function, path)
        self._add_attributes(function, path)
        names = _names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            self.emit("global", name)
            if isinstance(value, ModuleType):
                self._add_namespace(value, names, f"{path} ({name})")
            else:
                self._add(value, f"{path} ({name})")

    def _add_closure(self, function: FunctionType, path: str) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.emit(name)
            try:
                self._add(cell.cell_contents, f"{path} ({name})")
            except ValueError:  # the cell of a name that is not bound yet
                self.emit("unbound")

    def _add_namespace(self, module: ModuleType, names: set[str], path: str) -> None:
        """What code that names a module can read of it; of modules within it as well."""
        self.emit("import", module.__name__)
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            self.emit(name)
            if not isinstance(value, ModuleType):
                self._add(value, f"{path}.{name}")
            elif (module.__name__, value.__name__) not in self._seen_modules:
                self._seen_modules.add((module.__name__, value.__name__))
                self._add_namespace(value, names, f"{path}.{name}")

    @functools.cached_property
    def _seen_modules(self) -> set[tuple[str, str]]:
        return set()

    def _add_code(self, code: CodeType, path: str) -> None:
        self._names |= _names(code)
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.emit("code", code.co_code, code.co_exceptiontable, shape, names)
        self.emit(code.co_filename, code.co_firstlineno, code.co_linetable)
        self._add_all((("constant", constant) for constant in code.co_consts), path)

    def _add_code_reached(self) -> None:
        """Functions, members of classes and private attributes, until they lead to no others."""
        done_functions = 0
        while True:
            while done_functions < len(self._functions):
                self._add_function(*self._functions[done_functions])
                done_functions += 1
            found = [
                (kind, name)
                for kind, done in list(self._classes.items())
                for name in sorted(vars(kind).keys() - done - _NO_BEHAVIOUR)
                if not _is_installed(kind) or (_runs_unnamed(kind, name) if _is_special(name) else name in self._names)
            ]
            private = sorted(self._private.keys() & self._names)
            if not found and not private:
                return
            for name in private:
                for path, value in self._private.pop(name):
                    self.emit("private", path)
                    self._add(value, path)
            for kind, name in found:
                self._classes[kind].add(name)
                self.emit("member", qualified_name(kind), name)
                self._add(vars(kind)[name], f"{kind.__qualname__}.{name}")


def _names(code: CodeType) -> set[str]:
    """All that code names: globals, attributes, and texts that may be names of attributes or of variables."""
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(texts, *inner)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _runs_unnamed(kind: type, name: str) -> bool:
    """Whether a special method runs while a model does. Modules exist already: how they are made is over."""
    is_over = name in ("__init__", "__new__", "__init_subclass__") and issubclass(kind, nn.Module)
    return name not in _SHOWING and not is_over


def _is_foundation(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _FOUNDATION


def _is_installed(kind: type) -> bool:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and file.startswith(_package_folders(tuple(sys.path)))


@functools.lru_cache(maxsize=1)
def _package_folders(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where packages are installed, in this environment or a folder beside it; not where one is being written."""
    folders = {
        os.path.abspath(str(found.locate_file("")))
        for found in importlib.metadata.distributions(path=list(path))
        if found.read_text("WHEEL") is not None
    }
    return tuple(folder + os.sep for folder in sorted(folders))


def shown(value: Any) -> str | None:
    """What an object shows of its value; None where that is its address alone."""
    show: Any = type(value).__repr__
    text = "" if show is object.__repr__ else repr(value)
    return None if not text or _ADDRESS.search(text) else text


def qualified_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))
