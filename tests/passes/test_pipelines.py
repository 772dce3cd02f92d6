"""Pipelines written as text: what they stand for, where an added pass goes, and how a mistake is answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastvideo_ir as ir
from fastvideo.passes import registry
from fastvideo.passes.canonicalize import Canonicalize
from fastvideo.passes.pipelines import Target, default_pipeline, resolve_pipeline
from fastvideo.passes.plan_sharding import PlanSharding
from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from .running import program, run_passes

DEFAULT = [
    "canonicalize",
    "recognize-attention",
    "eliminate-mask",
    "select-attention-backend",
    "fuse-linear-gelu",
    "fold-padding",
    "choose-mesh",
    "plan-sharding",
    "insert-reshards",
    "expand-statistics",
    "lower-reshards",
    "pack-collectives",
    "offload-params",
]


class Early(ir.Pass):
    name = "early"
    joins = ir.Stage.CAPTURED

    def run(self, program: ir.Program) -> None: ...


class Middle(ir.Pass):
    """Joins where passes join that say nothing."""

    name = "middle"

    k: int = 1
    exact: bool = True
    label: str = "a"

    def run(self, program: ir.Program) -> None: ...


class Placed(ir.Pass):
    name = "placed"
    joins = ir.Stage.PLACED

    def run(self, program: ir.Program) -> None: ...


class Late(ir.Pass):
    name = "late"
    needs = ir.Stage.COMMUNICATING
    joins = ir.Stage.COMMUNICATING

    def run(self, program: ir.Program) -> None: ...


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {step.name: step for step in (Early, Middle, Placed, Late)})
    yield


def names(text: str | None) -> list[str]:
    return [step.name for step in resolve_pipeline(text, Target())]


@pytest.mark.parametrize("text", [None, "default", " default "])
def test_default_is_the_written_order(text: str | None) -> None:
    assert names(text) == DEFAULT


def test_target_reaches_the_passes() -> None:
    steps = {step.name: step for step in default_pipeline(Target(4, "cuda", "TORCH_SDPA", memory=2**30))}
    assert str(steps["choose-mesh"]) == "choose-mesh{ranks=4,device=cuda}"
    assert str(steps["plan-sharding"]) == "plan-sharding{device=cuda}"
    assert str(steps["shard-params"]) == "shard-params{memory=1073741824,device=cuda}"
    assert str(steps["offload-params"]) == "offload-params{memory=1073741824,device=cuda}"
    assert str(steps["select-attention-backend"]) == "select-attention-backend{backend=TORCH_SDPA,device=cuda}"


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("default,early", None, "canonicalize"),
        ("default,middle", "fold-padding", "choose-mesh"),
        ("default,placed", "expand-statistics", "lower-reshards"),
        ("default,late", "offload-params", None),
        ("default,-choose-mesh,middle", "fold-padding", "plan-sharding"),
    ],
)
def test_added_pass_goes_to_the_end_of_the_stage_it_joins(text: str, before: str | None, after: str | None) -> None:
    found = [None, *names(text), None]
    at = found.index(text.rpartition(",")[2])
    assert (found[at - 1], found[at + 1]) == (before, after)


def test_two_passes_of_one_stage_keep_the_order_in_which_they_are_named() -> None:
    found = names("default,middle{k=1},middle{k=2},placed,early")
    assert found[0] == "early"
    steps = [str(step) for step in resolve_pipeline("default,middle{k=3},middle{k=2}", Target())]
    assert steps.index("middle{k=2}") == steps.index("middle{k=3}") + 1


def test_minus_leaves_a_pass_out() -> None:
    assert names("default,-offload-params") == DEFAULT[:-1]
    assert names("default,middle,-middle") == DEFAULT


def test_passes_without_default_run_as_written() -> None:
    assert names("late,canonicalize,early") == ["late", "canonicalize", "early"]


def test_options_are_read_by_their_types() -> None:
    (step,) = resolve_pipeline("middle{k=2, exact=false, label=b}", Target())
    assert step == Middle(k=2, exact=False, label="b")
    (plan,) = resolve_pipeline("plan-sharding{pinned=0,replicated=0.5}", Target())
    assert plan == PlanSharding(pinned=False, replicated=0.5)


def test_list_of_passes_and_classes_is_taken_as_it_is() -> None:
    assert resolve_pipeline([Canonicalize, Middle(k=2)], Target()) == [Canonicalize(), Middle(k=2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default,pack-colectives", "unknown pass 'pack-colectives'; known: .*did you mean 'pack-collectives'?"),
        ("defualt", "unknown pass 'defualt'; known: .*did you mean 'default'?"),
        ("default,-middle", "unknown pass to leave out 'middle'; known: canonicalize, "),
        ("-early,default", "unknown pass to leave out 'early'; known: none"),
        ("middle{j=2}", "unknown option of pass 'middle' 'j'; known: exact, k, label"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message.replace("?", r"\?")):
        resolve_pipeline(text, Target())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty text names no passes"),
        ("  ", "an empty text names no passes"),
        ("default,,middle", "cannot read ',middle' in passes='default,,middle'"),
        ("default middle", "cannot read 'default middle'"),
        ("middle{k=2", "cannot read 'middle{k=2'"),
        ("middle}", "cannot read 'middle}'"),
        ("default,--middle", "unknown pass to leave out '-middle'"),
        ("middle{k=two}", "option k='two' of pass 'middle' is not of type int"),
        ("middle{exact=maybe}", "option exact='maybe' of pass 'middle' is not of type bool"),
        ("middle{k}", "option k='' of pass 'middle' is not of type int"),
        ("plan-sharding{hardware=fast}", "option hardware='fast' of pass 'plan-sharding' is not of type Hardware"),
    ],
)
def test_malformed_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        resolve_pipeline(text, Target())
    assert message in str(caught.value)


def test_things_that_are_no_passes_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="42 is not a pass; expected instances of"):
        resolve_pipeline([Canonicalize(), 42], Target())  # type: ignore[list-item]


def test_pass_before_its_stage_is_refused_with_both_stages() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        run_passes(program("%x : f32[4] = input\nreturn (%x)", stage="captured"), "late")
    assert str(caught.value).startswith("pass 'late' needs stage COMMUNICATING, the program is at CAPTURED")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (int, "<class 'int'> is not a subclass of fastvideo.Pass"),
        (type("Nameless", (ir.Pass,), {}), "pass Nameless has no name"),
        (type("Twin", (ir.Pass,), {"name": "middle"}), "a pass called 'middle' is registered already"),
        (type("Twin", (ir.Pass,), {"name": "canonicalize"}), "a pass called 'canonicalize' is registered already"),
        (type("Twin", (ir.Pass,), {"name": "default"}), "'default' cannot be the name of a pass"),
        (type("Bad", (ir.Pass,), {"name": "my pass"}), "'my pass' cannot be the name of a pass"),
        (type("Bad", (ir.Pass,), {"name": "-x"}), "'-x' cannot be the name of a pass"),
    ],
)
def test_pass_that_no_pipeline_could_name_is_not_registered(step: type, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        registry.register_pass(step)
    assert message in str(caught.value)
