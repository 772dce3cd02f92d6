"""Passes run in the order written, with options from text, and every step can be watched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastvideo_ir import Pass, Program, Rewriter, Stage, parse_program, print_program, run_passes
from fastvideo_ir.errors import FastVideoError, InvalidArgumentError, UnknownNameError, VerificationError
from fastvideo_ir.pass_manager import Dump, Timing, Verification

aten = torch.ops.aten


class Wrap(Pass):
    """Puts a chain of negations behind the input."""

    name = "wrap"
    times: int = 1
    scale: float = 1.0
    fast: bool = False
    label: str = "x"

    def run(self, program: Program) -> None:
        rewriter = Rewriter(program, self.name)
        for _ in range(self.times):
            old = program.output_values[0]
            rewriter.set_outputs((rewriter.insert(aten.neg.default, (old,), before=program.output_node, name="neg"),))


class Canonical(Pass):
    name = "canonical"
    reaches = Stage.CANONICAL

    def run(self, program: Program) -> None:
        pass


class NeedsCanonical(Pass):
    name = "late"
    needs = Stage.CANONICAL

    def run(self, program: Program) -> None:
        pass


class Breaks(Pass):
    name = "breaks"
    how: str = "type"

    def run(self, program: Program) -> None:
        if self.how == "raise":
            raise InvalidArgumentError("no such thing")
        program.input_nodes[0].meta["junk"] = 1


@pytest.fixture
def program() -> Program:
    return parse_program("program stage=captured {\n  %x : f32[4] = input\n  return (%x)\n}")


def test_passes_run_in_the_order_written(program: Program) -> None:
    timing = Timing()
    run_passes(program, [Wrap(times=2), Canonical(), NeedsCanonical()], [timing])
    assert [name for name, _ in timing.seconds] == ["wrap{times=2}", "canonical", "late"]
    assert program.stage is Stage.CANONICAL
    assert print_program(program).count("aten.neg.default") == 2


def test_pass_before_its_stage_is_refused(program: Program) -> None:
    with pytest.raises(InvalidArgumentError, match="pass 'late' needs stage CANONICAL, the program is at CAPTURED"):
        run_passes(program, [NeedsCanonical(), Canonical()])


def test_options_are_read_from_text() -> None:
    step = Wrap.with_options({"times": "3", "scale": "0.5", "fast": "true", "label": "a b"})
    assert step == Wrap(times=3, scale=0.5, fast=True, label="a b")
    assert str(step) == "wrap{times=3,scale=0.5,fast=True,label=a b}"
    assert str(Wrap()) == "wrap"
    assert Wrap.with_options({"fast": "0"}) == Wrap()


def test_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Wrap.with_options({"time": "3"})
    assert str(caught.value) == (
        "unknown option of pass 'wrap' 'time'; known: fast, label, scale, times (did you mean 'times'?)"
    )


@pytest.mark.parametrize(
    ("key", "text", "kind"), [("times", "many", "int"), ("scale", "x", "float"), ("fast", "yes!", "bool")]
)
def test_option_of_the_wrong_type_is_refused(key: str, text: str, kind: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Wrap.with_options({key: text})
    assert str(caught.value) == f"option {key}={text!r} of pass 'wrap' is not of type {kind}"


def test_options_cannot_change_after_the_fact() -> None:
    with pytest.raises(AttributeError):
        Wrap().times = 2  # type: ignore[misc]


def test_dump_writes_each_step_and_its_diff(program: Program, tmp_path: Path) -> None:
    before = print_program(program)
    run_passes(program, [Canonical(), Wrap()], [Dump(tmp_path / "deep" / "dump")])
    files = {path.name: path.read_text() for path in (tmp_path / "deep" / "dump").iterdir()}
    assert set(files) == {
        "00-captured.fvir",
        "01-canonical.fvir",
        "01-canonical.diff",
        "02-wrap.fvir",
        "02-wrap.diff",
    }
    assert files["00-captured.fvir"] == before
    assert files["02-wrap.fvir"] == print_program(program)
    assert "+  %neg : f32[4] = aten.neg.default(%x) by" in files["02-wrap.diff"]
    assert "-program stage=captured {\n+program stage=canonical {" in files["01-canonical.diff"]
    assert print_program(parse_program(files["02-wrap.fvir"])) == files["02-wrap.fvir"]


def test_program_is_verified_after_the_pass_that_broke_it(program: Program) -> None:
    with pytest.raises(VerificationError) as caught:
        run_passes(program, [Wrap(), Breaks(), Wrap()], [Verification()])
    assert caught.value.__notes__ == ["in pass breaks"]


def test_error_names_the_pass_that_raised_it(program: Program) -> None:
    with pytest.raises(FastVideoError) as caught:
        run_passes(program, [Breaks(how="raise")])
    assert caught.value.__notes__ == ["in pass breaks{how=raise}"]


def test_instruments_see_the_program_before_and_after(program: Program) -> None:
    seen: list[tuple[str, int, str, int]] = []

    class Watch:
        def before(self, number: int, step: Pass, program: Program) -> None:
            seen.append(("before", number, step.name, len(program.graph.nodes)))

        def after(self, number: int, step: Pass, program: Program, seconds: float) -> None:
            seen.append(("after", number, step.name, len(program.graph.nodes)))

    run_passes(program, [Wrap(), Canonical()], [Watch()])
    assert seen == [
        ("before", 1, "wrap", 2),
        ("after", 1, "wrap", 3),
        ("before", 2, "canonical", 3),
        ("after", 2, "canonical", 3),
    ]
