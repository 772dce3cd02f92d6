"""Renames everything in a captured program, and prints programs without names."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.graph import map_arguments

_NAME = re.compile(r"%\w+")
_BY = re.compile(r' by\(".*?"(?: from(?: \w+)+)?\)')


def scrambled(program: ir.Program, seed: int) -> ir.Program:
    """A copy whose nodes, params and locations bear random names."""
    words = random.Random(seed)
    taken: set[str] = set()

    def word() -> str:
        while True:
            made = "".join(words.choices("bcdfghjklmnpqrstvwxz", k=9))
            if made not in taken:
                taken.add(made)
                return made

    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    params: dict[str, ir.Param] = {}
    paths: dict[tuple[str, str, int], ir.Location] = {}
    for node in program.nodes:
        args, kwargs = map_arguments(node, mapping.__getitem__)
        name = "output" if node.op == "output" else word()
        new = mapping[node] = graph.create_node(
            node.op, name if node.op == "placeholder" else node.target, args, kwargs, name
        )
        new.meta = {}
        if node.op == "output":
            continue
        known = ir.info(node)
        place = known.location
        if place is not None:
            key = (place.module, place.file, place.line)
            place = paths.setdefault(key, ir.Location(word(), f"{word()}.py", words.randrange(1, 10_000)))
        ir.set_info(new, replace(known, location=place))
        if node.name in program.params:
            params[name] = ir.Param(word(), program.params[node.name].kind)
    return ir.Program(graph, params, program.mesh, program.stage)


def nameless(program: ir.Program) -> str:
    """The text with nodes numbered in order, and without the names of params and without provenance's sources."""
    numbers: dict[str, str] = {}
    lines = []
    for line in ir.print_program(program, locations=False).splitlines():
        line = _BY.sub("", line)
        line = re.sub(r'= param ".*?" ', "= param ", line)
        lines.append(_NAME.sub(lambda match: numbers.setdefault(match[0], f"%{len(numbers)}"), line))
    return "\n".join(lines)
