"""Module calls that stay Python, because a value that they read can change at every call.

Such a call stands in the trace as one :data:`CALL`, whose operands and results are the tensors among the module's
arguments and results. It has to be *well-formed*: it takes tensors and constants, changes none of its arguments, and
returns tensors whose shapes follow from those of its operands. A call that is not gives way to the call around it.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from fastvideo_ir.errors import CaptureError, EagerCallError, InvalidArgumentError
from fastvideo_ir.program import Location
from fastvideo_ir.types import TensorType

from . import tree
from .checks import device_of
from .module_stack import ModuleStack
from .other_values import other_values
from .state import version
from .tree import ConstantLeaf, Tree

_LIBRARY: Any = torch.library.Library("fv_capture", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("eager_call(Tensor[] operands, str function) -> Tensor[]")
_LIBRARY.impl("eager_call", lambda operands, function: _results.pop(), "CompositeExplicitAutograd")

CALL: Any = torch.ops.fv_capture.eager_call.default
"""``eager_call(operands, function)``: the module call ``function`` was run here, and not traced."""

_results: list[list[torch.Tensor]] = []
"""What the call that is being written into the trace has returned."""


@dataclass(frozen=True)
class Reason:
    """Why a module stays Python.

    Attributes:
        location: of the read that made it so.
        text: what was read there.
        inner: why the module that read it does not suffice; empty where it does.
    """

    location: Location
    text: str
    inner: str = ""

    def __str__(self) -> str:
        return f"{self.location}: {self.text}" + (f"; {self.inner}" if self.inner else "")


class MustStayEagerError(CaptureError):
    """A trace is of no use unless these modules, by path, stay Python. The model itself has the path ``""``."""

    def __init__(self, modules: Mapping[str, Reason]) -> None:
        self.modules = dict(modules)
        text = str(next(iter(modules.values())))
        if "" in modules:
            text = f"{modules['']}; the smallest module call around it that could stay Python is the whole model"
        super().__init__(text, hint="compute it with tensor ops, or move the code into a module of its own")


_NOTHING = ConstantLeaf(None, None)


@dataclass(frozen=True)
class ModuleCall:
    """One module call, to be run in place of the op that stands for it.

    Attributes:
        module: lives with the caller, and reads its own weights.
        path: where it stands in the model.
        parent: path of the module that calls it.
        reason: why it stays Python.
        arguments: structure of its arguments.
        autocast: the dtype of the autocast region around it; None where there is none.
        output: structure of what it returns.
        types: of the tensors that it returns.
    """

    module: nn.Module
    path: str
    parent: str
    reason: Reason
    arguments: Tree
    autocast: torch.dtype | None
    output: Tree = _NOTHING
    types: tuple[TensorType, ...] = ()

    def __call__(self, operands: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the module where it lives.

        Raises:
            EagerCallError: it returned something of another form than while it was captured, or wrote to an argument.
        """
        output, tensors = self.run(operands)
        if output != self.output or tuple(map(TensorType.of, tensors)) != self.types:
            found, wanted = (", ".join(map(str, kinds)) for kinds in (map(TensorType.of, tensors), self.types))
            raise EagerCallError(self.path, f"returned ({found}) in place of ({wanted})")
        return tensors

    def run(self, operands: Sequence[torch.Tensor]) -> tuple[Tree, list[torch.Tensor]]:
        """Structure and tensors of what the module returns; they share no memory with anything else.

        Raises:
            EagerCallError: it wrote to an argument, or returned what is no tensor.
        """
        home = device_of(self.module, list(operands))
        # Writes to tensors made in inference mode are not counted.
        mine = [operand.clone() if operand.is_inference() else operand.to(home) for operand in operands]
        versions = [version(tensor) for tensor in mine]
        arguments = tree.unflatten(self.arguments, mine)
        with torch.no_grad(), torch.autocast(home.type, self.autocast, enabled=self.autocast is not None):
            result = self.module(*arguments["args"], **arguments["kwargs"])
        if [version(tensor) for tensor in mine] != versions or not _same(tree.flatten_arguments(arguments), self, mine):
            raise EagerCallError(self.path, "changed its arguments")
        try:
            output, tensors = tree.flatten_result(result)
        except InvalidArgumentError as error:
            raise EagerCallError(self.path, f"returned something else than tensors: {error.message}") from error
        others = [leaf for _, leaf in tree.leaves(output) if isinstance(leaf, ConstantLeaf) and leaf.value is not None]
        if others or not tensors:
            raise EagerCallError(self.path, f"returned {others[0].value!r}" if others else "returned no tensor")
        back = operands[0].device
        return output, [tensor.to(back).clone(memory_format=torch.contiguous_format) for tensor in tensors]


def _same(flat: tuple[Tree, list[torch.Tensor], list[str]], call: ModuleCall, operands: list[torch.Tensor]) -> bool:
    return flat[0] == call.arguments and all(a is b for a, b in zip(flat[1], operands, strict=True))


class EagerCallWarning(UserWarning):
    """A module stays Python: the caller's rank alone runs it, and sends what it returns to the others."""


_warned: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def warn_of(calls: Sequence[ModuleCall], model: nn.Module) -> None:
    """Warn of modules that stay Python, once for each; those that do for the same line are told together."""
    known = _warned.setdefault(model, set())
    new: dict[str, list[ModuleCall]] = {}
    for call in calls:
        if call.path not in known:
            known.add(call.path)
            new.setdefault(f"{call.reason.location.file}:{call.reason.location.line}", []).append(call)
    for place, (first, *others) in new.items():
        more = f" and {len(others)} more like it" if others else ""
        inner = f"; {first.reason.inner}" if first.reason.inner else ""
        warnings.warn(
            f"{type(model).__name__}: module {first.path!r}{more} stays Python and runs on the caller's rank alone, "
            f"since {first.reason.text} ({place}){inner}",
            EagerCallWarning,
            stacklevel=2,
        )


class EagerCalls:
    """Keeps the calls of some modules out of a trace.

    Args:
        stay_eager: the modules, by path, with the reason.
        stack: knows which module runs.

    Attributes:
        functions: the calls that were kept out, under the names by which the trace calls them.
    """

    def __init__(self, stay_eager: Mapping[str, Reason], stack: ModuleStack) -> None:
        self._stay_eager = stay_eager
        self._stack = stack
        self._running = False
        self.functions: dict[str, ModuleCall] = {}

    @property
    def running(self) -> bool:
        """Whether a module that stays Python is being run."""
        return self._running

    @contextmanager
    def kept_out(self) -> Iterator[None]:
        """While entered, the modules are run and not traced."""
        if not self._stay_eager:
            yield
            return
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._stack.path_of(module)
            if self._running or path not in self._stay_eager:
                return original(module, *args, **kwargs)
            assert path is not None
            return self._keep_out(module, path, args, kwargs)

        with mock.patch.object(nn.Module, "__call__", call):
            yield

    def _keep_out(self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        reason, parent = self._stay_eager[path], self._stack.innermost
        try:
            arguments, operands, _ = tree.flatten_arguments({"args": list(args), "kwargs": kwargs})
            if not operands:
                raise EagerCallError(path, "takes no tensor")
            home = device_of(module, operands).type
            autocast = torch.get_autocast_dtype(home) if torch.is_autocast_enabled(home) else None
            call = ModuleCall(module, path, parent, reason, arguments, autocast)
            with self._untraced():
                output, tensors = call.run(operands)
                call = replace(call, output=output, types=tuple(map(TensorType.of, tensors)))
                _check_shapes(call, operands)
        except EagerCallError as error:
            raise _ask_for(parent, reason, path, error.what) from error
        except InvalidArgumentError as error:
            raise _ask_for(parent, reason, path, f"took something else than tensors: {error.message}") from error
        name = self._name(path)
        self.functions[name] = call
        _results.append(tensors)
        return tree.unflatten(output, CALL(operands, name))

    @contextmanager
    def _untraced(self) -> Iterator[None]:
        self._running = True
        try:
            with disable_proxy_modes_tracing():
                yield
        finally:
            self._running = False

    def _name(self, path: str) -> str:
        count = sum(call.path == path for call in self.functions.values())
        return f"{path}@{count}" if count else path


def _ask_for(parent: str, reason: Reason, path: str, why: str) -> MustStayEagerError:
    inner = reason.inner or f"{path!r} alone cannot, since it {why}"
    return MustStayEagerError({parent: replace(reason, inner=inner)})


def give_way(calls: Sequence[ModuleCall], why: str) -> MustStayEagerError:
    """The error that asks for the modules around those of ``calls``."""
    modules: dict[str, Reason] = {}
    for call in calls:
        modules |= _ask_for(call.parent, call.reason, call.path, why).modules
    return MustStayEagerError(modules)


def _check_shapes(call: ModuleCall, operands: Sequence[torch.Tensor]) -> None:
    """Try other values: a module may return as many rows as a mask has ones.

    Raises:
        EagerCallError: other values give other shapes.
    """
    for change in (other_values, _negated, _zeroed):
        try:
            call(change(operands))
        except EagerCallError as error:
            raise EagerCallError(call.path, f"{error.what}, for other values") from error
        except Exception:  # values that the module was not made for prove nothing
            continue


def _negated(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [-tensor if tensor.is_floating_point() else tensor for tensor in tensors]


def _zeroed(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros_like(tensor) if tensor.is_floating_point() else tensor for tensor in tensors]
