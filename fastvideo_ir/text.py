"""The text form of a Program (``.fvir``): prints, and parses back to the same program.

::

    program stage=placed mesh=(sp=4) {
      %w : f32[96, 96] = param "proj.weight" parameter
      %x : f32[1, 105, 96] = input
      %x_sp : f32[1, 105@sp, 96] = fv.reshard(%x) by("insert-reshards" from x)
      %y : f32[1, 105@sp, 96] = aten.linear.default(%x_sp, %w) loc("proj" "model.py":12)
      return (%y)
    }
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from . import dialect, memory  # noqa: F401  (register the fv ops that a text may name)
from .errors import FastVideoError, ParseError
from .mesh import Mesh
from .ops.registry import registry, target_name
from .program import DEVICE, Location, NodeInfo, Param, ParamKind, Program, Provenance, Stage, info, set_info
from .recipes import recipe
from .types import DTYPE_NAMES, DTYPES_BY_NAME, TensorType, parse_type

_MEMORY_FORMATS = {
    torch.preserve_format: "preserve_format",
    torch.contiguous_format: "contiguous_format",
    torch.channels_last: "channels_last",
    torch.channels_last_3d: "channels_last_3d",
}
_ATOMS: dict[str, Any] = {
    **{f"!{name}": dtype for name, dtype in DTYPES_BY_NAME.items()},
    **{name: value for value, name in _MEMORY_FORMATS.items()},
    "$device": DEVICE,
    "strided": torch.strided,
    "None": None,
    "True": True,
    "False": False,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
}


def print_program(program: Program, *, locations: bool = True) -> str:
    """The text of a whole program.

    Args:
        locations: print where each node comes from.
    """
    head = f"program stage={program.stage.name.lower()}"
    if program.mesh.axes:
        head += " mesh=(" + ", ".join(f"{name}={size}" for name, size in program.mesh.axes) + ")"
    if program.rank is not None:
        head += f" rank={program.rank}"
    lines = [head + " {"]
    lines += [f"  {print_node(node, program, locations=locations)}" for node in program.nodes]
    return "\n".join([*lines, "}"]) + "\n"


def print_node(node: fx.Node, program: Program, *, locations: bool = True) -> str:
    """One line: name, type, op, and where it comes from."""
    if node.op == "output":
        return f"return {_print_value(program.output_values)}"
    known = info(node)
    if node.op == "placeholder":
        param = program.params.get(node.name)
        body = f"param {json.dumps(param.source)} {param.kind.value}" if param else "input"
        if param and param.recipe:
            body += f" recipe({json.dumps(param.recipe)})"
    else:
        arguments = [_print_value(value) for value in node.args]
        arguments += [f"{key}={_print_value(value)}" for key, value in node.kwargs.items()]
        body = f"{target_name(node.target)}({', '.join(arguments)})"
    if known.uses is not None:
        body += " uses(" + ", ".join(str(use) for use in known.uses) + ")"
    if known.pinned:
        body += f" pinned({', '.join(known.pinned)})"
    if known.skippable:
        body += " skippable"
    if known.invariant:
        body += " invariant"
    if locations and known.location:
        place = known.location
        body += f" loc({json.dumps(place.module)} {json.dumps(place.file)}:{place.line})"
    if known.provenance:
        sources = "".join(f" {name}" for name in known.provenance.sources)
        body += f" by({json.dumps(known.provenance.by)}" + (f" from{sources}" if sources else "") + ")"
    return f"%{node.name} : {known.type} = {body}"


def _print_value(value: Any) -> str:
    match value:
        case fx.Node():
            return f"%{value.name}"
        case str():
            return json.dumps(value)
        case bool() | None | int() | float():
            return repr(value)
        case torch.dtype():
            return "!" + DTYPE_NAMES[value]
        case torch.device():
            return "$device" if value == DEVICE else f"device({json.dumps(str(value))})"
        case torch.layout() if value is torch.strided:
            return "strided"
        case torch.memory_format():
            return _MEMORY_FORMATS[value]
        case list():
            return "[" + ", ".join(_print_value(item) for item in value) + "]"
        case tuple():
            return "(" + ", ".join(_print_value(item) for item in value) + ")"
    raise ParseError(f"{value!r} of type {type(value).__name__} has no text form")


def parse_program(text: str) -> Program:
    """The program that ``text`` describes.

    Raises:
        ParseError: with the line number and what was expected there.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("//")]
    if not lines:
        raise ParseError("an empty text is no program")
    program = _parse_head(*lines[0])
    values: dict[str, fx.Node] = {}
    for position, (number, line) in enumerate(lines[1:], 2):
        try:
            if line != "}":
                _parse_line(line, program, values)
                continue
            if not program.graph.find_nodes(op="output"):
                raise ParseError("the program returns nothing; expected 'return (...)' before it")
            if position < len(lines):
                raise ParseError(f"unexpected text after the program: {lines[position][1]!r}")
            return program
        except (FastVideoError, ValueError) as error:
            raise ParseError(f"line {number}: {getattr(error, 'message', error)}\n  {line}") from error
    raise ParseError("the program is not closed; expected '}'")


def _parse_head(number: int, line: str) -> Program:
    match = re.fullmatch(r"program stage=(\w+)(?: mesh=\((.*?)\))?(?: rank=(\d+))? \{", line)
    if not match or match[1].upper() not in Stage.__members__:
        raise ParseError(f"line {number}: expected 'program stage=... mesh=(axis=size) {{', got {line!r}")
    axes = [re.fullmatch(r"\s*(\w+)=(\d+)\s*", part) for part in (match[2] or "").split(",") if part.strip()]
    if None in axes:
        raise ParseError(f"line {number}: {match[2]!r} is no mesh; expected e.g. mesh=(cfg=2, sp=4)")
    mesh = Mesh(tuple((axis[1], int(axis[2])) for axis in axes if axis))
    return Program(fx.Graph(), mesh=mesh, stage=Stage[match[1].upper()], rank=int(match[3]) if match[3] else None)


_NODE = re.compile(r"%(\w+) : (.+?) = (input\b|param\b|[\w.<>]+(?=\())(.*)")


def _parse_line(line: str, program: Program, values: dict[str, fx.Node]) -> None:
    if line.startswith("return "):
        results, rest = _Reader(line[len("return ") :], values).value()
        if not isinstance(results, tuple) or rest:
            raise ParseError("expected 'return (value, ...)'")
        program.graph.output(results)
        return
    match = _NODE.fullmatch(line)
    if not match:
        raise ParseError("expected '%name : type = op(...)' or 'return (...)'")
    name, type_text, op, rest = match.groups()
    if name in values:
        raise ParseError(f"%{name} is defined twice")
    if op in ("input", "param"):
        node = program.graph.placeholder(name)
        if op == "param":
            found = re.match(r' ("(?:[^"\\]|\\.)*") (parameter|buffer|constant)(?: recipe\("([\w-]+)"\))?', rest)
            if not found:
                raise ParseError('expected: param "name" parameter|buffer|constant')
            if found[3]:
                recipe(found[3])
            program.params[name] = Param(json.loads(found[1]), ParamKind(found[2]), found[3])
            rest = rest[found.end() :]
    else:
        args, kwargs, rest = _Reader(rest, values).arguments()
        node = program.graph.create_node("call_function", _target(op), args, kwargs, name)
    if node.name != name:
        raise ParseError(f"%{name} is not a name that a graph can hold (it becomes %{node.name})")
    node.meta = {}
    set_info(node, _parse_info(type_text, rest))
    values[name] = node


def _parse_info(type_text: str, rest: str) -> NodeInfo:
    uses: tuple[TensorType, ...] | None = None
    location: Location | None = None
    provenance: Provenance | None = None
    pinned: tuple[str, ...] = ()
    skippable = invariant = False
    rest = rest.strip()
    while rest:
        if rest.startswith("uses("):
            inner, rest = _enclosed(rest[4:])
            parsed = parse_type(f"({inner})") if inner else None
            elements = getattr(parsed, "elements", ()) if parsed else ()
            uses = tuple(element for element in elements if element is not None)
        elif rest.startswith("skippable"):
            skippable, rest = True, rest[len("skippable") :]
        elif rest.startswith("invariant"):
            invariant, rest = True, rest[len("invariant") :]
        elif found := re.match(r"pinned\((\w+(?:, \w+)*)\)", rest):
            pinned = tuple(found[1].split(", "))
            rest = rest[found.end() :]
        elif found := re.match(r'loc\(("(?:[^"\\]|\\.)*") ("(?:[^"\\]|\\.)*"):(\d+)\)', rest):
            location = Location(json.loads(found[1]), json.loads(found[2]), int(found[3]))
            rest = rest[found.end() :]
        elif found := re.match(r'by\(("(?:[^"\\]|\\.)*")(?: from((?: \w+)+))?\)', rest):
            provenance = Provenance(json.loads(found[1]), tuple((found[2] or "").split()))
            rest = rest[found.end() :]
        else:
            raise ParseError(
                f"unexpected text {rest!r}; expected uses(...), pinned(...), skippable, invariant, loc(...) or by(...)"
            )
        rest = rest.strip()
    return NodeInfo(parse_type(type_text), location, provenance, uses, pinned, skippable, invariant)


def _enclosed(text: str) -> tuple[str, str]:
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in "])}")
        if depth == 0:
            return text[1:index], text[index + 1 :]
    raise ParseError(f"unbalanced brackets in {text!r}")


def _target(name: str) -> Any:
    op = registry.named(name)
    if op is not None:
        return op.target
    target: Any = torch.ops
    for part in name.split("."):
        target = getattr(target, part, None)
    if not isinstance(target, torch._ops.OpOverload):
        raise ParseError(f"unknown op {name!r}; expected namespace.name.overload, e.g. aten.linear.default")
    return target


class _Reader:
    """Recursive descent over the arguments of one line."""

    _TOKEN = re.compile(
        r"\s*(%\w+|\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?![\w.])|device\(|[!$]?-?[A-Za-z_]\w*|[\[\](),=])"
    )

    def __init__(self, text: str, values: dict[str, fx.Node]) -> None:
        self._text = text
        self._at = 0
        self._values = values

    def _peek(self) -> str:
        match = self._TOKEN.match(self._text, self._at)
        if not match:
            raise ParseError(f"expected a value or a bracket at {self._text[self._at :]!r}")
        return match[1]

    def _next(self, expected: Iterable[str] = ()) -> str:
        match = self._TOKEN.match(self._text, self._at)
        if not match or (expected and match[1] not in expected):
            raise ParseError(f"expected {' or '.join(expected) or 'a value'} at {self._text[self._at :]!r}")
        self._at = match.end()
        return match[1]

    def _separator(self, closing: str) -> None:
        if self._peek() != closing:
            self._next((",",))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        """``(value, key=value)``; returns args, kwargs and the rest of the text."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        self._next("(")
        while self._peek() != ")":
            key = re.match(r"\s*([A-Za-z_]\w*)\s*=", self._text[self._at :])
            if key:
                self._at += key.end()
                kwargs[key[1]], _ = self.value()
            else:
                args.append(self.value()[0])
            self._separator(")")
        self._next(")")
        return tuple(args), kwargs, self._text[self._at :]

    def value(self) -> tuple[Any, str]:
        token = self._next()
        result: Any
        if token in ("(", "["):
            items = []
            closing = ")" if token == "(" else "]"
            while self._peek() != closing:
                items.append(self.value()[0])
                self._separator(closing)
            self._next(closing)
            result = tuple(items) if token == "(" else items
        elif token.startswith("%"):
            if token[1:] not in self._values:
                raise ParseError(f"{token} is used before it is defined")
            result = self._values[token[1:]]
        elif token.startswith('"'):
            result = json.loads(token)
        elif token == "device(":
            result = torch.device(json.loads(self._next()))
            self._next(")")
        elif token in _ATOMS:
            result = _ATOMS[token]
        elif re.fullmatch(r"-?\d+", token):
            result = int(token)
        elif re.match(r"-?\d", token):
            result = float(token)
        else:
            raise ParseError(f"unexpected {token!r}")
        return result, self._text[self._at :]
