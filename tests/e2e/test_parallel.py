"""What a user may fix about the division: meshes of several axes, placements of inputs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo_ir.errors import FastVideoError, InvalidArgumentError, ShardingError, UnknownNameError

from ..models import case
from . import toy
from .measuring import check, count_work, eager_outputs, errors_of, measure

WAN = case("wan")


def inputs(batch: int = 1, tokens: int = toy.TOKENS) -> dict[str, Any]:
    values = toy.inputs(batch=batch, tokens=tokens)
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
    return {**doubled, "return_dict": False}


def compiled(parallel: Parallel, model: nn.Module | None = None) -> fastvideo.compiler.CompiledModel:
    return fastvideo.compile(
        model or toy.build().double(), parallel=parallel, executor="simulated", device="cpu", verify=False
    )


def test_three_axes_divide_one_model() -> None:
    parallel = Parallel(cfg=2, sp=2, tp=2)
    model, values = WAN.build(torch.float64), WAN.inputs(1, torch.float64, batch=2)
    with compiled(parallel, model) as ranks:
        ranks(**WAN.inputs(0, torch.float64, batch=2))
        work = count_work(lambda: ranks(**values))
        expected, eager = eager_outputs(model, values), count_work(lambda: model(**values))
        check(measure(ranks(**values), expected, work, eager, 8), 1e-12)
        (program,) = ranks.programs
    assert program.mesh.axes == (("cfg", 2), ("sp", 2), ("tp", 2))


@pytest.mark.parametrize(
    ("axes", "batch"), [({"dp": 2, "cfg": 2, "sp": 2}, 4), ({"sp": 3, "tp": 2}, 1), ({"cfg": 2, "tp": 3}, 2)]
)
def test_axes_compose(axes: dict[str, int], batch: int) -> None:
    program = run(Parallel(**axes), batch)
    assert dict(program.mesh.axes) == axes
    assert {str(node.args[1]) for node in program.nodes if node.target in ir.dialect.COLLECTIVES} == set(axes)


def input_types(program: ir.Program, paths: tuple[str, ...] = ("x", "timestep", "context")) -> dict[str, str]:
    return {path: str(ir.tensor_type(node)) for path, node in zip(paths, program.input_nodes, strict=True)}


def readers(program: ir.Program, number: int) -> set[str]:
    """Types in which the ``number``-th input is read by the first ops that compute with it."""
    node = program.input_nodes[number]
    return {str(ir.tensor_type(user)) for user in node.users if user.target is ir.dialect.shard}


def run(parallel: Parallel, batch: int = 1) -> ir.Program:
    """The plan, once its result has been compared with the model's."""
    model, values = toy.build().double(), inputs(batch)
    with compiled(parallel, model) as ranks:
        errors = errors_of(ranks(**values), [model(**values)[0].detach()])
        assert max(errors) <= 1e-12
        (program,) = ranks.programs
    return program


def test_input_is_taken_as_the_user_places_it() -> None:
    program = run(Parallel(sp=4, placements={"x": {"sp": 1}, "context": {"sp": 1}}))
    assert input_types(program) == {"x": "f64[1, 30@sp, 6]", "timestep": "i64[1]", "context": "f64[1, 7@sp, 32]"}


def test_placement_that_the_planner_would_not_choose_is_honoured_and_planned_around() -> None:
    program = run(Parallel(sp=2, placements={"x": {"sp": -1}}))
    (x, *_) = program.input_nodes
    assert str(ir.tensor_type(x)) == "f64[1, 30, 6@sp]"
    (user,) = x.users
    assert user.target in (ir.dialect.all_to_all, ir.dialect.all_gather)  # channels were the wrong dim: tokens are cut
    free = run(Parallel(sp=2))
    assert readers(free, 0) == {"f64[1, 30@sp, 6]"}


def test_input_that_is_to_stay_whole_is_read_whole() -> None:
    assert readers(run(Parallel(sp=2)), 0)
    program = run(Parallel(sp=2, placements={"x": {"sp": None}}))
    assert readers(program, 0) == set()
    assert any("30@sp" in str(ir.value_type(node)) for node in program.nodes if node.op == "call_function")


def test_one_input_may_be_placed_over_two_axes() -> None:
    program = run(Parallel(cfg=2, sp=2, placements={"x": {"cfg": 0, "sp": 1}}), batch=2)
    assert input_types(program)["x"] == "f64[2@cfg, 30@sp, 6]"


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = toy.build().double()

    def forward(self, parts: list[Tensor], timestep: Tensor, context: Tensor) -> Tensor:
        return self.inner(torch.cat(parts, 1), timestep, context, return_dict=False)[0]


def test_tensor_inside_of_a_container_is_named_by_its_path() -> None:
    values = inputs()
    arguments = {"parts": list(values["x"].split(15, 1)), "timestep": values["timestep"], "context": values["context"]}
    model = Nested().eval()
    with compiled(Parallel(sp=2, placements={"parts[1]": {"sp": 1}}), model) as ranks:
        assert max(errors_of([ranks(**arguments)], [model(**arguments).detach()])) <= 1e-12
        (program,) = ranks.programs
    assert input_types(program, ("parts[0]", "parts[1]", "timestep", "context"))["parts[1]"] == "f64[1, 15@sp, 6]"


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"sp": 0}, InvalidArgumentError, "Parallel(sp=0): expected an integer of at least 1"),
        ({"sp": 2, "placements": ["x"]}, InvalidArgumentError, "Parallel(placements=['x']): expected dims by input"),
        ({"sp": 2, "placements": {"x": 1}}, InvalidArgumentError, "the placement of 'x' is 1; expected dims by axis"),
        ({"sp": 2, "placements": {"x": {"sp": "1"}}}, InvalidArgumentError, "over 'sp' is '1'; expected a dim or None"),
        ({"sp": 2, "placements": {"x": {"tp": 1}}}, InvalidArgumentError, "over 'tp', which has one rank"),
        ({"cfg": 2, "placements": {"x": {"cgf": 1}}}, UnknownNameError, "(did you mean 'cfg'?)"),
    ],
)
def test_pins_that_can_never_work_are_refused_at_once(
    options: dict[str, Any], kind: type[FastVideoError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        Parallel(**options)
    assert text in str(caught.value)


def test_input_that_the_model_does_not_take_is_refused_before_any_call() -> None:
    with pytest.raises(UnknownNameError) as caught:
        compiled(Parallel(sp=2, placements={"contxt": {"sp": 1}}))
    assert str(caught.value) == (
        "unknown input of ToyDiT.forward in placements 'contxt'; "
        "known: context, guidance, return_dict, timestep, x (did you mean 'context'?)"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"cfg": 3},
            "axis 'cfg' splits the batch over 3 ranks, but the inputs have a batch of 2 (use cfg=2 or less)",
        ),
        (
            {"dp": 2, "cfg": 2},
            "dp=2 and cfg=2 split the batch over 4 ranks, but the inputs have a batch of 2 "
            "(use fewer ranks for the batch, or give more samples)",
        ),
        (
            {"sp": 2, "placements": {"x": {"sp": 3}}},
            "placements={'x': {'sp': 3}}: the input has 3 dims, [2, 30, 6]; dim 3 does not exist",
        ),
        (
            {"sp": 4, "tp": 2, "placements": {"x": {"sp": 2, "tp": -1}}},
            "dim 2 of input 'x' has 6 elements, too few for 8 ranks",
        ),
        (
            {"sp": 2, "placements": {"guidance": {"sp": 0}}},
            "unknown tensor input in placements 'guidance'; known: context, timestep, x",
        ),
    ],
)
def test_pins_that_do_not_fit_the_inputs_are_refused_before_capture(
    options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heavy(*_: object, **__: object) -> None:
        raise AssertionError("the model was captured first")

    monkeypatch.setattr(fastvideo.compiler, "capture", heavy)
    with compiled(Parallel(**options)) as ranks, pytest.raises(FastVideoError) as caught:
        ranks(**inputs(batch=2))
    assert str(caught.value) == text


class Vector(nn.Module):
    """No sequence, and nothing in it that a weight's cut could divide."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize(
    ("axes", "needs"), [({"sp": 2}, "tokens, heads or batch entries"), ({"tp": 2}, "heads or channels of weights")]
)
def test_axis_that_finds_nothing_to_divide_is_refused_with_what_it_needs(axes: dict[str, int], needs: str) -> None:
    with compiled(Parallel(**axes), Vector().eval()) as ranks, pytest.raises(ShardingError) as caught:
        ranks(torch.randn(1, 1))
    (axis,) = axes
    assert str(caught.value) == (
        f"axis {axis!r} of 2 ranks divides only 0% of the program's FLOPs "
        f"(there are too few {needs} for it; use fewer ranks or another axis)"
    )


@pytest.mark.parametrize("axes", [{"ring": 3}, {"ring": 2, "sp": 2}])
def test_ring_is_exact_on_a_whole_model(axes: dict[str, int]) -> None:
    program = run(Parallel(**axes))
    rings = [str(ir.tensor_type(node)) for node in program.nodes if ir.ops.attention.is_ring(node)]
    heads = "4@sp" if "sp" in axes else "4"
    assert rings == [f"f64[1, {heads}, 30@ring, 8]"] * 2  # self-attention; the text is on every rank


def test_ring_runs_between_processes() -> None:
    model, values = toy.build(1).double(), inputs(tokens=29)
    with fastvideo.compile(model, parallel=Parallel(ring=3), executor="mp", device="cpu", verify=False) as ranks:
        assert max(errors_of(ranks(**values), [model(**values)[0].detach()])) <= 1e-12
        (program,) = ranks.programs
    assert any(map(ir.ops.attention.is_ring, program.nodes))
