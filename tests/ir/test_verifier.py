"""Every rule of the verifier is broken once, and the error says where."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from fastvideo_ir import NodeInfo, info, parse_program, set_info, verify
from fastvideo_ir.errors import VerificationError

CODES = [
    (
        "param-order",
        "captured",
        """
        %x : f32[4] = input
        %w : f32[4] = param "w" parameter
        return (%x)
        """,
        "[param-order] %w: params must come before inputs",
    ),
    (
        "unknown-axis",
        "placed mesh=(sp=2)",
        """
        %x : f32[4@tp] = input
        return ()
        """,
        "f32[4@tp] uses ['tp'], not in mesh(sp=2)",
    ),
    (
        "output-placement",
        "placed mesh=(sp=2)",
        """
        %x : f32[4@sp] = input
        return (%x)
        """,
        "what the program returns must be replicated",
    ),
    (
        "stage",
        "canonical mesh=(sp=2)",
        """
        %x : f32[4] = input
        %y : f32[4@sp] = fv.reshard(%x)
        return (%x)
        """,
        "fv.reshard may occur from PLACED to PLACED, not at CANONICAL",
    ),
    (
        "arity",
        "communicating mesh=(sp=2)",
        """
        %x : f32[4@sp] = input
        %y : (f32[4], f32[4]) = fv.all_gather([%x], "sp")
        return ()
        """,
        "1 operands but 2 results",
    ),
    (
        "arity",
        "captured",
        """
        %x : f32[4] = input
        %y : (f32[4], f32[4]) = aten.relu.default(%x)
        return ()
        """,
        "the op yields f32[4], the type says (f32[4], f32[4])",
    ),
    (
        "arity",
        "captured",
        """
        %x : f32[4] = input
        %y : f32[4] = aten.chunk.default(%x, 1)
        return ()
        """,
        "the op yields (f32[4]), the type says f32[4]",
    ),
    (
        "type",
        "communicating mesh=(sp=2)",
        """
        %x : f32[4@sp] = input
        %y : (f32[5]) = fv.all_gather([%x], "sp")
        return ()
        """,
        "f32[4@sp] cannot become f32[5]",
    ),
    (
        "type",
        "captured",
        """
        %x : f32[4] = input
        %y : f16[4] = aten.relu.default(%x)
        return ()
        """,
        "the op yields f32[4], the type says f16[4]",
    ),
    (
        "type",
        "local mesh=(sp=2) rank=1",
        """
        %x : f32[5@sp, 6] = input
        %y : f32[3@sp, 10] = aten.view.default(%x, [2, 6])
        return ()
        """,
        "the op yields f32[2, 6], the type says f32[3@sp, 10]",
    ),
    (
        "illegal-call",
        "captured",
        """
        %x : f32[4, 5] = input
        %y : f32[4, 4] = aten.mm.default(%x, %x)
        return ()
        """,
        "the op refuses its operands:",
    ),
    (
        "illegal-call",
        "local mesh=(sp=2) rank=0",
        """
        %x : f32[5@sp, 6] = input
        %y : f32[30] = aten.view.default(%x, [30])
        return ()
        """,
        "the op refuses its operands:",
    ),
    (
        "getitem",
        "captured",
        """
        %x : f32[4] = input
        %y : (f32[2], f32[2]) = aten.chunk.default(%x, 2)
        %z : f32[2] = getitem(%y, 2)
        return ()
        """,
        "%y : (f32[2], f32[2]) has no element 2",
    ),
    (
        "getitem",
        "captured",
        """
        %x : f32[4] = input
        %y : (f32[2], f32[2]) = aten.chunk.default(%x, 2)
        %z : f32[3] = getitem(%y, 1)
        return ()
        """,
        "element 1 of %y is f32[2]",
    ),
    (
        "placement-mismatch",
        "placed mesh=(sp=2)",
        """
        %x : f32[4, 6@sp] = input
        %y : f32[4, 6@sp] = aten.softmax.int(%x, -1)
        return ()
        """,
        "(f32[4, 6@sp]) -> f32[4, 6@sp] breaks the op's rule over axis 'sp'",
    ),
    (
        "placement-mismatch",
        "placed mesh=(sp=2)",
        """
        %x : f32[4]{sum:sp} = input
        %y : f32[4]{sum:sp} = aten.relu.default(%x)
        return ()
        """,
        "breaks the op's rule over axis 'sp'",
    ),
    (
        "placement-mismatch",
        "placed mesh=(sp=2)",
        """
        %x : f32[4] = input
        %y : f32[4@sp] = aten.relu.default(%x)
        return ()
        """,
        "(f32[4]) -> f32[4@sp] breaks the op's rule over axis 'sp'",
    ),
    (
        "collective",
        "communicating mesh=(sp=2)",
        """
        %x : f32[4] = input
        %y : (f32[4]) = fv.all_gather([%x], "sp")
        return ()
        """,
        "f32[4] to f32[4] over 'sp' is not Shard to Replicate",
    ),
    (
        "collective",
        "communicating mesh=(sp=2, tp=2)",
        """
        %x : f32[4@sp, 6] = input
        %y : (f32[4, 6@tp]) = fv.all_gather([%x], "sp")
        return ()
        """,
        "f32[4@sp, 6] to f32[4, 6@tp] also changes axis 'tp'",
    ),
    (
        "axis-order",
        "communicating mesh=(sp=2, tp=2)",
        """
        %x : f32[8@sp.tp] = input
        %y : (f32[8@tp]) = fv.all_gather([%x], "sp")
        return ()
        """,
        "'sp' is not the innermost axis of dim 0 in f32[8@sp.tp]",
    ),
    (
        "placement-mismatch",
        "placed mesh=(sp=2)",
        """
        %x : f32[4@sp] = input
        %y : (f32[4@sp]) = fv.eager_call([%x], "experts")
        return ()
        """,
        "(f32[4@sp]) -> (f32[4@sp]) breaks the op's rule over axis 'sp'",
    ),
    (
        "placement-mismatch",
        "placed mesh=(sp=2)",
        """
        %x : f32[4@sp] = input
        %y : f32[4@sp] = aten.rand_like.default(%x)
        return ()
        """,
        "(f32[4@sp]) -> f32[4@sp] breaks the op's rule over axis 'sp'",
    ),
    (
        "first-rank",
        "local mesh=(sp=2) rank=1",
        """
        %x : f32[4] = input
        %y : (f32[4]) = fv.eager_call([%x], "experts")
        return ()
        """,
        "rank 0 runs it for all; this is the program of rank 1",
    ),
    (
        "eager-call",
        "captured",
        """
        %x : f32[4] = input
        %y : (f32[4]) = fv.eager_call(%x, "experts")
        return ()
        """,
        "expected a list of operands and the name of a function",
    ),
    (
        "eager-call",
        "captured",
        """
        %x : f32[4] = input
        %y : f32[4] = fv.eager_call([%x], "experts")
        return ()
        """,
        "it yields a row of tensors, the type says f32[4]",
    ),
    (
        "transfer",
        "local mesh=(sp=2) rank=1",
        """
        %x : f32[4] = input
        %y : f32[5] = fv.broadcast(%x)
        return ()
        """,
        "a buffer of shape (4,) where (5,) is moved",
    ),
]


def refusal(stage: str, body: str) -> str:
    program = parse_program(f"program stage={stage} {{\n{body}\n}}")
    with pytest.raises(VerificationError) as caught:
        verify(program)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "stage", "body", "message"), CODES, ids=[f"{row[0]}-{n}" for n, row in enumerate(CODES)]
)
def test_broken_rule_is_reported(code: str, stage: str, body: str, message: str) -> None:
    text = refusal(stage, body)
    assert message in text
    assert text.startswith(f"[{code}] %")


GOOD = """program stage=placed mesh=(sp=2, tp=2) {
  %w : f32[8@tp, 6] = param "w" parameter
  %x : f32[4, 6] = input
  %x_sp : f32[4@sp, 6] = fv.reshard(%x)
  %y : f32[4@sp, 8@tp] = aten.linear.default(%x_sp, %w) loc("blocks.3.mlp" "model.py":41)
  %z : f32[4@sp]{sum:tp} = aten.sum.dim_IntList(%y, [1])
  %o : f32[4] = fv.reshard(%z)
  return (%o, None)
}
"""


def test_sound_program_passes() -> None:
    verify(parse_program(GOOD))


def test_wanted_uses_count_where_operands_still_differ() -> None:
    """``plan-sharding`` records what an op wants before the reshard is there."""
    text = GOOD.replace("  %x_sp : f32[4@sp, 6] = fv.reshard(%x)\n", "").replace(
        "aten.linear.default(%x_sp, %w)", "aten.linear.default(%x, %w) uses(f32[4@sp, 6], f32[8@tp, 6])"
    )
    verify(parse_program(text))


def test_error_names_module_line_and_neighbours() -> None:
    with pytest.raises(VerificationError) as caught:
        verify(parse_program(GOOD.replace("f32[4@sp, 8@tp]", "f32[4@sp, 9@tp]")))
    text = str(caught.value)
    assert text.startswith("[type] %y (blocks.3.mlp at model.py:41): the op yields f32[4, 8]")
    assert "--> %y : f32[4@sp, 9@tp] = aten.linear.default(%x_sp, %w)" in text
    assert "    %x_sp : f32[4@sp, 6] = fv.reshard(%x)" in text
    assert "    return (%o, None)" in text


def test_error_shows_ten_nodes_around_the_fault_at_most() -> None:
    lines = [f"  %a{n} : f32[4] = input" for n in range(30)]
    lines[15] = "  %a15 : f32[4@xx] = input"
    text = refusal("placed mesh=(sp=2)", "\n".join([*lines, "return ()"]))
    shown = [line for line in text.splitlines() if "= input" in line]
    assert len(shown) == 11
    assert "%a10" in shown[0]
    assert "%a20" in shown[-1]


def broken(change: str) -> str:
    program = parse_program(
        "program stage=captured {\n  %x : f32[4] = input\n  %y : f32[4] = aten.relu.default(%x)\n  return (%y)\n}"
    )
    node = next(node for node in program.nodes if node.name == "y")
    if change == "meta":
        node.meta["val"] = torch.ones(1)
    elif change == "untyped":
        set_info(node, NodeInfo(None))
    else:
        with program.graph.inserting_before(node):
            other: fx.Node = program.graph.create_node("get_attr", "weight")
        other.meta = {}
        set_info(other, info(node))
    with pytest.raises(VerificationError) as caught:
        verify(program)
    return str(caught.value)


def test_foreign_meta_is_refused() -> None:
    assert "[meta] %y: node.meta must hold 'fv' alone, has ['fv', 'val']" in broken("meta")


def test_value_without_a_type_is_refused() -> None:
    assert "[untyped] %y: every value has a type" in broken("untyped")


def test_other_kinds_of_node_are_refused() -> None:
    assert "[node-kind] %weight: a program has no 'get_attr' nodes" in broken("node-kind")
