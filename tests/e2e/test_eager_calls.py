"""Modules that stay Python, since they route by activations: on every executor, never stale, and honestly counted."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.frontends.capture.eager_calls import EagerCallWarning
from fastvideo.passes.localize import localize
from fastvideo.passes.outline_blocks import OutlineBlocks
from fastvideo_ir.block import Block
from fastvideo_ir.errors import InvalidArgumentError

from ..frontends import routing
from .measuring import count_work, errors_of

pytestmark = pytest.mark.filterwarnings("ignore::fastvideo.frontends.capture.eager_calls.EagerCallWarning")


def eager(model: nn.Module, seed: int) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(routing.tokens(seed))
    return result


def compiled_for(model: nn.Module, **options: Any) -> fastvideo.CompiledModel:
    return fastvideo.compile(model, device="cpu", **options)


def assert_routes_anew(model: nn.Sequential, compiled: fastvideo.CompiledModel) -> None:
    """Three calls with other routing: right each time, by one program, and by Python that has really run."""
    routes = []
    for seed in range(3):
        expected = eager(model, seed)
        before = len(model[1].experts.counts)
        assert max(errors_of([compiled(routing.tokens(seed))], [expected])) <= 1e-10
        assert model[1].experts.counts[before - 1] == model[1].experts.counts[-1]
        routes.append(model[1].experts.counts[-1])
    assert len({tuple(route) for route in routes}) == 3, "the three calls route alike, which proves nothing"
    assert len(compiled.programs) == 1


@pytest.mark.parametrize("kind", routing.KINDS, ids=lambda kind: kind.__name__)
def test_other_routing_at_every_call_is_right_on_three_ranks(kind: type[routing.Experts]) -> None:
    model = routing.model(kind)
    with compiled_for(model, num_gpus=3, executor="simulated") as compiled:
        assert_routes_anew(model, compiled)


@pytest.mark.parametrize(
    "options",
    [{}, {"parallel": Parallel(sp=2, tp=2), "executor": "simulated"}, {"num_gpus": 2, "executor": "mp"}],
    ids=["local", "simulated-2x2", "mp"],
)
def test_other_routing_at_every_call_is_right_on_every_executor(options: dict[str, Any]) -> None:
    model = routing.model()
    with compiled_for(model, **options) as compiled:
        assert_routes_anew(model, compiled)


def test_rank_0_alone_runs_the_module_and_the_others_receive_its_result() -> None:
    model = routing.model()
    with compiled_for(model, num_gpus=3, executor="simulated") as compiled:
        compiled(routing.tokens(0))
        work = count_work(lambda: compiled(routing.tokens(1)))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model[1].experts(torch.ones(2, routing.TOKENS, routing.WIDTH, dtype=torch.float64))
        python = 2 * counter.get_total_flops()
        others = [work.total[rank] for rank in (1, 2)]
        assert work.total[0] >= max(others) + python * 0.99
        program = compiled.programs[0]
        calls = [node for node in program.nodes if node.target is ir.dialect.eager_call]
        assert [node.args[1] for node in calls] == ["1.experts", "2.experts"]
        for rank in range(3):
            local = localize(program, rank)
            ir.verify(local)
            mine = [node.target for node in local.nodes]
            assert mine.count(ir.dialect.eager_call) == (2 if rank == 0 else 0)
            assert mine.count(ir.dialect.broadcast) == 2
            ir.run_passes(local, [OutlineBlocks(generator="eager")])
            inside = [
                n.target for node in local.nodes if isinstance(node.target, Block) for n in node.target.graph.nodes
            ]
            assert inside and ir.dialect.eager_call not in inside


def test_text_names_the_module_and_parses_back_without_it() -> None:
    model = routing.model(depth=1)
    with compiled_for(model, num_gpus=2, executor="simulated") as compiled:
        compiled(routing.tokens(0))
        program = compiled.programs[0]
        text = ir.print_program(program)
        assert re.search(r'fv\.eager_call\(\[%\w+\], "1\.experts"\) loc\("1\.experts" ".*routing\.py":\d+\)', text)
        parsed = ir.parse_program(text)
        assert ir.print_program(parsed) == text
        ir.verify(parsed)
        whole = ir.Program(parsed.graph, parsed.params, parsed.mesh, ir.Stage.CANONICAL)
        params = dict(model.state_dict())
        with pytest.raises(InvalidArgumentError, match=r"fv\.eager_call of '1\.experts' needs the function"):
            ir.interpreter.evaluate(whole, params, [routing.tokens(0)])


def test_warned_once_and_explained() -> None:
    model = routing.model()
    with compiled_for(model, num_gpus=2, executor="simulated") as compiled:
        with pytest.warns(EagerCallWarning) as caught:
            compiled(routing.tokens(0))
        assert len(caught) == 1
        text = str(caught[0].message)
        assert text.startswith(
            "Sequential: module '1.experts' and 1 more like it stays Python and runs on the caller's"
        )
        assert re.search(r"bincount reads a value that depends on the parameter '.*', .*routing\.py:\d+\)$", text)
        with warnings.catch_warnings():
            warnings.simplefilter("error", EagerCallWarning)
            compiled(routing.tokens(0)[:1])
        assert len(compiled.programs) == 2
        explained = compiled.explain()
        assert re.search(r"stays Python +1\.experts, on rank 0: .*routing\.py:\d+", explained)
        assert "fv.eager_call" not in explained
        assert compiled.report.programs[0].eager_calls[1].module == "2.experts"


def test_weights_of_the_module_follow_update_weights() -> None:
    model = routing.model()
    with compiled_for(model, num_gpus=2, executor="simulated") as compiled:
        compiled(routing.tokens(0))
        with torch.no_grad():
            model[1].experts.experts[0].weight.mul_(-1)
        with pytest.raises(InvalidArgumentError, match="weights have changed"):
            compiled(routing.tokens(0))
        compiled.update_weights()
        assert max(errors_of([compiled(routing.tokens(0))], [eager(model, 0)])) <= 1e-10
