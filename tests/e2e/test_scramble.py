"""The scramble test: no name in a model decides anything.

Every param, node, module path and source line of a captured program is renamed to random words. The passes must give
the same program as without, up to that renaming.
"""

from __future__ import annotations

import pytest
import torch

import fastvideo_ir as ir
from fastvideo.passes.pipelines import Target, default_pipeline

from ..captures import program_of
from ..models import CASES, ModelCase, case
from .scrambling import nameless, scrambled

RANKS = 4


def planned(program: ir.Program) -> ir.Program:
    result = program.copy()
    result.mesh = ir.Mesh((("sp", RANKS),))
    ir.run_passes(result, default_pipeline(Target(RANKS)))
    return result


@pytest.mark.parametrize("dit", CASES, ids=lambda dit: dit.name)
def test_names_decide_nothing(dit: ModelCase) -> None:
    program = program_of(dit)
    renamed = scrambled(program, seed=dit.heads)
    ir.verify(renamed)
    assert nameless(renamed) == nameless(program)
    assert nameless(planned(renamed)) == nameless(planned(program))


class PeeksAtNames(ir.Pass):
    """What the scramble test is there to catch."""

    name = "peeks-at-names"

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        for node in list(program.nodes):
            place = ir.info(node).location if node.op == "call_function" else None
            if place and "blocks.0" in place.module and node.target is torch.ops.aten.linear.default:
                rewriter.set_target(node, torch.ops.fv.attention.default)


def test_scramble_notices_a_pass_that_peeks_at_names() -> None:
    program = program_of(case("wan"))
    plain, renamed = program.copy(), scrambled(program, seed=1)
    for one in (plain, renamed):
        ir.run_passes(one, [PeeksAtNames()])
    assert nameless(plain) != nameless(renamed)


def test_scrambling_leaves_no_name_as_it_was() -> None:
    program = program_of(case("wan"))
    renamed = scrambled(program, seed=1)
    assert not {node.name for node in program.nodes} & {node.name for node in renamed.nodes} - {"output"}
    assert not {param.source for param in program.params.values()} & {p.source for p in renamed.params.values()}
    places = [{ir.info(n).location for n in one.nodes if n.op == "call_function"} for one in (program, renamed)]
    assert len(places[0]) == len(places[1]) > 1
    assert not places[0] & places[1] - {None}
