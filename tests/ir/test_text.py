"""Programs print and parse back; a text that is no program is refused with its line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from fastvideo_ir import DEVICE, NodeInfo, Program, TensorType, info, parse_program, print_program, set_info, verify
from fastvideo_ir.errors import ParseError
from fastvideo_ir.types import DTYPE_NAMES

FULL = """\
program stage=placed mesh=(cfg=2, sp=4) {
  %w : f32[96, 96] = param "proj.weight" parameter
  %freqs : c64[105, 8] = param "rope.\\"freqs\\"" buffer
  %c : i64[] = param "lifted 0" constant
  %x : f32[2, 105, 96] = input pinned(cfg, sp)
  %x_sp : f32[2@cfg, 105@sp, 96] = fv.reshard(%x) by("insert-reshards" from x)
  %y : f32[2@cfg, 105@sp, 96] = aten.linear.default(%x_sp, %w) loc("blocks.0.proj" "a dir/model.py":12)
  %y_1 : f32[2@cfg, 105@sp, 96] = aten.add.Tensor(%y, %y, alpha=2) loc("" "":0) by("fuse")
  %chunks : (f32[2@cfg, 105@sp, 48], f32[2@cfg, 105@sp, 48]) = aten.chunk.default(%y_1, 2, -1)
  %first : f32[2@cfg, 105@sp, 48] = getitem(%chunks, 0)
  %z : f32[2, 105@sp, 3*16/8@cfg] = aten.relu.default(%first) uses(f32[2, 105@sp, 3*16/8@cfg]) by("p" from first y_1)
  %s : f32[2@cfg, 48]{sum:sp} = aten.sum.dim_IntList(%first, [1])
  %a : f32[7] = aten.arange.default(7, dtype=!f32, device=$device, layout=strided, pin_memory=False)
  %m : f32[7] = aten.clone.default(%a, memory_format=contiguous_format)
  return (%z, %s, None, 3, (%m))
}
"""


def test_every_construct_round_trips() -> None:
    assert print_program(parse_program(FULL)) == FULL


def test_parsed_program_is_what_the_text_says() -> None:
    program = parse_program(FULL)
    nodes = {node.name: node for node in program.nodes}
    assert [node.name for node in program.param_nodes] == ["w", "freqs", "c"]
    assert program.params["freqs"].source == 'rope."freqs"'
    assert [node.name for node in program.input_nodes] == ["x"]
    assert (program.stage.name, program.mesh.axes, program.rank) == ("PLACED", (("cfg", 2), ("sp", 4)), None)
    location = info(nodes["y"]).location
    assert location is not None
    assert (location.module, location.file, location.line) == ("blocks.0.proj", "a dir/model.py", 12)
    provenance = info(nodes["z"]).provenance
    assert provenance is not None
    assert (provenance.by, provenance.sources) == ("p", ("first", "y_1"))
    assert info(nodes["z"]).uses == (info(nodes["z"]).type,)
    assert (info(nodes["x"]).pinned, info(nodes["z"]).pinned) == (("cfg", "sp"), ())
    assert nodes["a"].kwargs["device"] == DEVICE
    assert nodes["a"].kwargs["dtype"] is torch.float32
    assert program.output_values[2:4] == (None, 3)


def test_local_program_names_its_rank() -> None:
    text = "program stage=local mesh=(sp=2) rank=1 {\n  %x : f32[4@sp] = input\n  return (%x)\n}\n"
    program = parse_program(text)
    assert program.rank == 1
    assert print_program(program) == text


def test_copy_prints_alike_and_is_independent() -> None:
    program = parse_program(FULL)
    copy = program.copy()
    assert print_program(copy) == FULL
    set_info(copy.input_nodes[0], NodeInfo(TensorType(torch.int8, (1,))))
    assert print_program(program) == FULL


def test_locations_can_be_left_out() -> None:
    text = print_program(parse_program(FULL), locations=False)
    assert "loc(" not in text
    assert 'by("fuse")' in text


def test_comments_and_blank_lines_are_skipped() -> None:
    text = "// CHECK: x\n\nprogram stage=captured {\n  // an input\n  %x : f32[4] = input\n\n  return (%x)\n}\n// end\n"
    assert [node.name for node in parse_program(text).nodes] == ["x", "output"]


atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(list(DTYPE_NAMES)),
    st.sampled_from(
        [DEVICE, torch.device("cuda", 3), torch.strided, torch.preserve_format, torch.channels_last_3d, math.inf]
    ),
)
values = st.recursive(
    atoms, lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)), max_leaves=6
)


@given(
    st.lists(values, max_size=4), st.dictionaries(st.from_regex(r"[a-z_]\w{0,5}", fullmatch=True), values, max_size=3)
)
def test_any_argument_round_trips(args: list[Any], kwargs: dict[str, Any]) -> None:
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.relu.default, tuple(args), kwargs)
    set_info(node, NodeInfo(TensorType(torch.float32, ())))
    graph.output((node,))
    text = print_program(Program(graph))
    parsed = next(parse_program(text).nodes)
    assert (parsed.args, parsed.kwargs) == (node.args, node.kwargs)
    assert print_program(parse_program(text)) == text


def test_nan_round_trips() -> None:
    text = "program stage=captured {\n  %x : f32[] = aten.full.default([], nan)\n  return (%x)\n}\n"
    program = parse_program(text)
    value = next(program.nodes).args[1]
    assert isinstance(value, float)
    assert math.isnan(value)
    assert print_program(program) == text


def test_value_without_a_text_form_is_refused() -> None:
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.relu.default, (1 + 2j,))
    set_info(node, NodeInfo(TensorType(torch.float32, ())))
    graph.output((node,))
    with pytest.raises(ParseError, match=r"\(1\+2j\) of type complex has no text form"):
        print_program(Program(graph))


def test_names_keep_their_numbers_in_any_order() -> None:
    lines = [f"  %{name} : f32[4] = input" for name in ("x_3", "x", "x_1", "x_10", "y_0")]
    text = "\n".join(["program stage=captured {", *lines, "  return (%x_1)", "}", ""])
    assert print_program(parse_program(text)) == text


def test_parsed_program_verifies() -> None:
    verify(parse_program(FULL.replace("(%z, %s, None, 3, (%m))", "(%x, None)")))


BAD_LINES = [
    ("x : f32[4] = input", "expected '%name : type = op(...)' or 'return (...)'"),
    ("%x : f32[4 = input", "'f32[4' is not a type; expected e.g. bf16[1, 105@sp, 96]"),
    ("%x : f32[10/4@sp] = input", "a segment of 10 elements cannot be cut in units of 4"),
    ("%x : f32[4@sp, 4@sp] = input", "a mesh axis is used twice"),
    ("%x : f32[4] = param", 'expected: param "name" parameter|buffer|constant'),
    ("%x : f32[4] = param weight parameter", 'expected: param "name" parameter|buffer|constant'),
    ("%a : f32[4] = input", "%a is defined twice"),
    ("%x : f32[4] = aten.relu.default(%b)", "%b is used before it is defined"),
    ("%x : f32[4] = aten.linear(%a)", "unknown op 'aten.linear'; expected namespace.name.overload"),
    ("%x : f32[4] = aten.no_such_op.default(%a)", "unknown op 'aten.no_such_op.default'"),
    ("%x : f32[4] = aten.relu.default(%a", "expected a value or a bracket at ''"),
    ("%x : f32[4] = aten.relu.default(%a %a)", "expected , at ' %a)'"),
    ("%x : f32[4] = aten.relu.default([1 2])", "expected , at ' 2])'"),
    ("%x : f32[4] = aten.relu.default(blue)", "unexpected 'blue'"),
    (
        "%x : f32[4] = aten.relu.default(%a) at line 3",
        "unexpected text 'at line 3'; expected uses(...), pinned(...), skippable, invariant, loc(...) or by(...)",
    ),
    ("%x : f32[4] = aten.relu.default(%a) uses(f32[4]", "unbalanced brackets"),
    ("%lambda : f32[4] = input", "%lambda is not a name that a graph can hold"),
    ("return %a", "expected 'return (value, ...)'"),
    ("return (%a) twice", "expected 'return (value, ...)'"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line for line, _ in BAD_LINES])
def test_bad_line_is_refused_with_its_number_and_text(line: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_program(f"program stage=placed mesh=(sp=2) {{\n  %a : f32[4] = input\n\n  {line}\n  return (%a)\n}}")
    assert message in str(caught.value)
    assert "line 4: " in str(caught.value)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty text is no program"),
        ("// nothing\n", "an empty text is no program"),
        ("func @main {\n}", "line 1: expected 'program stage=... mesh=(axis=size) {', got 'func @main {'"),
        ("program stage=someday {\n}", "line 1: expected 'program stage="),
        ("program stage=placed mesh=(sp) {\n}", "line 1: 'sp' is no mesh; expected e.g. mesh=(cfg=2, sp=4)"),
        ("program stage=placed mesh=(sp=two) {\n}", "line 1: 'sp=two' is no mesh"),
        ("program stage=captured {\n  return ()", "the program is not closed; expected '}'"),
        ("program stage=captured {\n}", "line 2: the program returns nothing; expected 'return (...)' before it"),
        ("program stage=captured {\n  return ()\n}\nmore", "line 3: unexpected text after the program: 'more'"),
    ],
)
def test_text_that_is_no_program_is_refused(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_program(text)
    assert message in str(caught.value)
