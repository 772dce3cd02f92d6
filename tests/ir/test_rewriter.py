"""The rewriter keeps locations, records provenance, infers types, and tells its listeners."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from fastvideo_ir import Program, Rewriter, info, parse_program, print_program, tensor_type, value_type, verify
from fastvideo_ir.errors import VerificationError
from fastvideo_ir.program import Provenance
from tests.ir.filecheck import filecheck

aten = torch.ops.aten

TEXT = """\
program stage=placed mesh=(sp=2) {
  %w : f32[6, 4] = param "w" parameter
  %x : f32[2, 8@sp, 4] = input
  %y : f32[2, 8@sp, 6] = aten.linear.default(%x, %w) loc("blocks.0" "model.py":7)
  %z : f32[2, 8@sp, 6] = aten.relu.default(%y) loc("blocks.0.act" "model.py":9) by("earlier" from y)
  %u : f32[2, 8@sp, 6] = aten.neg.default(%y)
  return (%x)
}
"""


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def inserted(self, node: fx.Node) -> None:
        self.events.append(("inserted", node.name))

    def replaced(self, old: fx.Node, new: fx.Node) -> None:
        self.events.append(("replaced", old.name, new.name))

    def erased(self, node: fx.Node) -> None:
        self.events.append(("erased", node.name))


@pytest.fixture
def program() -> Program:
    return parse_program(TEXT)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def rewriter(program: Program, log: Log) -> Rewriter:
    return Rewriter(program, "my-pass", [log])


def named(program: Program, name: str) -> fx.Node:
    return next(node for node in program.nodes if node.name == name)


def test_inserted_node_has_location_of_its_first_source_and_provenance(program: Program, rewriter: Rewriter) -> None:
    y, z = named(program, "y"), named(program, "z")
    node = rewriter.insert(aten.add.Tensor, (y, z), after=z, sources=(z, y), name="total")
    assert info(node).location == info(z).location
    assert info(node).provenance == Provenance("my-pass", ("z", "y"))
    filecheck(
        print_program(program),
        """
        CHECK:      %z : {{.*}} = aten.relu.default
        CHECK-NEXT: %total : f32[2, 8, 6] = aten.add.Tensor(%y, %z) loc("blocks.0.act" "model.py":9)
        CHECK-SAME: by("my-pass" from z y)
        """,
    )


def test_anchor_is_the_source_where_none_is_named(program: Program, rewriter: Rewriter) -> None:
    y = named(program, "y")
    node = rewriter.insert(aten.neg.default, (named(program, "x"),), before=y)
    assert info(node).provenance == Provenance("my-pass", ("y",))
    assert node.next is y


def test_type_is_inferred_and_unplaced_unless_given(program: Program, rewriter: Rewriter) -> None:
    y = named(program, "y")
    assert str(value_type(rewriter.insert(aten.sum.dim_IntList, (y, [1]), after=y))) == "f32[2, 6]"
    assert str(value_type(rewriter.insert(aten.chunk.default, (y, 2, -1), after=y))) == "(f32[2, 8, 3], f32[2, 8, 3])"
    assert str(value_type(rewriter.insert(aten.neg.default, (y,), after=y, type=value_type(y)))) == "f32[2, 8@sp, 6]"


def test_node_before_the_output_needs_no_source(program: Program, rewriter: Rewriter) -> None:
    node = rewriter.insert(aten.neg.default, (named(program, "z"),), before=program.output_node)
    assert (info(node).location, info(node).provenance) == (None, Provenance("my-pass", ()))


def test_call_that_the_op_refuses_is_an_error_and_leaves_no_node(program: Program, rewriter: Rewriter) -> None:
    with pytest.raises(RuntimeError):
        rewriter.insert(aten.mm.default, (named(program, "w"), named(program, "w")), after=named(program, "w"))
    assert print_program(program) == TEXT


def test_insert_needs_one_anchor(program: Program, rewriter: Rewriter) -> None:
    y = named(program, "y")
    for anchors in ({}, {"before": y, "after": y}):
        with pytest.raises(VerificationError, match="insert needs one of before and after"):
            rewriter.insert(aten.neg.default, (y,), **anchors)  # type: ignore[arg-type]


def test_replace_moves_the_users_and_erases_the_old_node(program: Program, rewriter: Rewriter, log: Log) -> None:
    y, z = named(program, "y"), named(program, "z")
    new = rewriter.insert(aten.clone.default, (y,), before=z, name="clone")
    rewriter.replace(z, new)
    assert log.events == [("inserted", "clone"), ("replaced", "z", "clone"), ("erased", "z")]
    assert z not in set(program.nodes)
    assert new in y.users


def test_replace_can_spare_users_and_the_old_node(program: Program, rewriter: Rewriter) -> None:
    y, z, u = (named(program, name) for name in "yzu")
    new = rewriter.insert(aten.clone.default, (y,), after=y)
    rewriter.replace(y, new, only=lambda user: user is u)
    assert (z.args, u.args) == ((y,), (new,))
    other = rewriter.insert(aten.neg.default, (y,), after=z)
    rewriter.replace(z, other, erase=False)
    assert z in set(program.nodes)


def test_replace_refuses_another_type(program: Program, rewriter: Rewriter) -> None:
    message = r"my-pass: y yields f32\[2, 8@sp, 6\], its replacement x f32\[2, 8@sp, 4\]"
    with pytest.raises(VerificationError, match=message):
        rewriter.replace(named(program, "y"), named(program, "x"))


def test_replace_with_keeps_the_placement_and_the_location(program: Program, rewriter: Rewriter) -> None:
    z = named(program, "z")
    place, before = info(z).location, tensor_type(z)
    new = rewriter.replace_with(z, aten.clamp_min.default, (named(program, "y"), 0))
    assert (tensor_type(new), info(new).location) == (before, place)
    assert info(new).provenance == Provenance("my-pass", ("z",))
    rewriter.set_outputs(())
    verify(program)


def test_replace_with_refuses_another_shape(program: Program, rewriter: Rewriter) -> None:
    with pytest.raises(VerificationError, match="its replacement"):
        rewriter.replace_with(named(program, "z"), aten.sum.dim_IntList, (named(program, "y"), [1]))


def test_new_target_is_recorded(program: Program, rewriter: Rewriter) -> None:
    z = named(program, "z")
    place = info(z).location
    rewriter.set_target(z, aten.sigmoid.default)
    assert info(z).provenance == Provenance("my-pass", ("z",))
    assert info(z).location == place


def test_arguments_types_uses_and_outputs_can_be_set(program: Program, rewriter: Rewriter) -> None:
    y, z, u = (named(program, name) for name in "yzu")
    rewriter.set_arguments(u, (z,), {})
    rewriter.set_type(u, tensor_type(u).unplaced)
    rewriter.set_uses(u, (tensor_type(z).unplaced,))
    rewriter.set_outputs((u, None))
    assert "%u : f32[2, 8, 6] = aten.neg.default(%z) uses(f32[2, 8, 6])" in print_program(program)
    assert program.output_values == (u, None)
    assert y.users.keys() == {z}
    assert info(u).location is None


def test_dead_code_goes_from_the_end_and_random_ops_stay(program: Program, log: Log) -> None:
    rewriter = Rewriter(program, "dce", [log])
    drawn = rewriter.insert(aten.rand.default, ([2],), {"device": torch.device("meta")}, before=named(program, "y"))
    log.events.clear()
    assert rewriter.erase_dead() == 3
    assert log.events == [("erased", "u"), ("erased", "z"), ("erased", "y")]
    assert [node.name for node in program.nodes] == ["w", "x", drawn.name, "output"]


def test_changes_are_counted(program: Program, rewriter: Rewriter) -> None:
    assert rewriter.changes == 0
    rewriter.replace_with(named(program, "z"), aten.neg.default, (named(program, "y"),))
    assert rewriter.changes > 0


def test_change_forgets_what_analyses_found(program: Program, rewriter: Rewriter) -> None:
    program.findings["peak"] = 7
    assert program.copy().findings == {}
    assert program.findings == {"peak": 7}
    rewriter.set_type(named(program, "x"), tensor_type(named(program, "x")))
    assert program.findings == {}
