"""Repeated blocks are found by structure, however often a block calls ops of one kind."""

import random

import fastvideo_ir as ir
from fastvideo_ir.repeats import Repeat, calls_of, find_repeats

KINDS, OF_EACH, BLOCKS = 9, 13, 4


def test_a_block_that_calls_each_kind_many_times_is_found() -> None:
    block = [kind for kind in range(KINDS) for _ in range(OF_EACH)]
    random.Random(0).shuffle(block)
    lines = [f"%v{n + 1} : f32[4] = aten.mul.Scalar(%v{n}, {kind + 2})" for n, kind in enumerate(block * BLOCKS)]
    body = "\n".join(["%v0 : f32[4] = input", *lines, f"return (%v{len(lines)})"])
    program = ir.parse_program(f"program stage=captured {{\n{body}\n}}")
    (found,) = find_repeats(program, calls_of(program))
    assert found in (Repeat(at, len(block), BLOCKS - (at > 0)) for at in (0, 1))
