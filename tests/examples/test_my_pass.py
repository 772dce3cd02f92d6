"""examples/my_pass.py: what it merges, what it leaves, and that every model has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fastvideo
import fastvideo_ir as ir

from ..ir.filecheck import filecheck
from ..models import CASES, ModelCase
from .checking import IN_PROCESS, check_against_eager, run_script
from .conftest import EXAMPLES, LoadExample

PASSES = "default,merge-duplicates"

TWICE = """
program stage=canonical {
  %x : f32[4, 256] = input
  %a : f32[4, 256] = aten.silu.default(%x)
  %b : f32[4, 256] = aten.mul.Tensor(%a, 2.0)
  %c : f32[4, 256] = aten.silu.default(%x)
  %d : f32[4, 256] = aten.mul.Tensor(%c, 2.0)
  %e : f32[4, 256] = aten.mul.Tensor(%a, 3.0)
  return (%b, %d, %e)
}
"""


def merged(load_example: LoadExample, text: str, **options: float) -> str:
    program = ir.parse_program(text)
    ir.run_passes(program, [load_example("my_pass").MergeDuplicates(**options)])
    ir.verify(program)
    return ir.print_program(program)


def test_duplicates_of_duplicates_are_merged(load_example: LoadExample) -> None:
    filecheck(
        merged(load_example, TWICE),
        r"""
        CHECK:      %[[SILU:\w+]] : {{.*}} = aten.silu.default(%x)
        CHECK-NEXT: %[[TWO:\w+]] : {{.*}} = aten.mul.Tensor(%[[SILU]], 2.0)
        CHECK-NEXT: %[[THREE:\w+]] : {{.*}} = aten.mul.Tensor(%[[SILU]], 3.0)
        CHECK-NEXT: return (%[[TWO]], %[[TWO]], %[[THREE]])
        """,
    )


def test_large_values_are_computed_again(load_example: LoadExample) -> None:
    assert merged(load_example, TWICE, max_mib=0.003).count("aten.silu") == 2  # each takes 4 KiB
    assert merged(load_example, TWICE, max_mib=0.004).count("aten.silu") == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("aten.rand_like.default(%x)", "aten.rand_like.default(%x)"),
        ("aten.mul.Tensor(%x, 1)", "aten.mul.Tensor(%x, 1.0)"),
        ("aten.silu.default(%x)", "aten.silu.default(%y)"),
    ],
)
def test_what_may_differ_is_not_merged(load_example: LoadExample, left: str, right: str) -> None:
    text = f"""
    program stage=canonical {{
      %x : f32[4] = input
      %y : f32[4] = input
      %a : f32[4] = {left}
      %b : f32[4] = {right}
      return (%a, %b)
    }}"""
    assert "return (%a, %b)" in merged(load_example, text)


def test_option_is_read_from_text(load_example: LoadExample) -> None:
    load_example("my_pass")
    model = torch.nn.SiLU().eval()
    with pytest.raises(
        fastvideo.FastVideoError, match=r"max_mib='much' of pass 'merge-duplicates' is not of type float"
    ):
        fastvideo.compile(model, device="cpu", passes=f"{PASSES}{{max_mib=much}}")
    with pytest.raises(fastvideo.FastVideoError, match=r"unknown option .* 'max_mb'; .*did you mean 'max_mib'"):
        fastvideo.compile(model, device="cpu", passes=f"{PASSES}{{max_mb=1}}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("way", IN_PROCESS)
def test_every_model_has_it(
    case: ModelCase, way: str, load_example: LoadExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_example("my_pass")
    monkeypatch.setenv("FASTVIDEO_DUMP", str(tmp_path))
    check_against_eager(case, passes=f"{PASSES}{{max_mib=1}}", **IN_PROCESS[way])
    (dumped,) = tmp_path.glob("*-merge-duplicates.diff")
    diff = dumped.read_text()
    removed, added = (len(re.findall(rf"^\{sign}  %", diff, re.M)) for sign in "-+")
    assert removed - added >= 7, diff


def test_as_a_script(tmp_path: Path) -> None:
    before, after = run_script("my_pass.py", tmp_path).splitlines()
    figures = r": (\d+) nodes, error (\S+)"
    plain = re.fullmatch("default" + figures, before)
    merged = re.fullmatch(re.escape(PASSES) + figures, after)
    assert plain and merged
    assert int(merged[1]) <= int(plain[1]) - 40
    assert float(merged[2]) < 1e-5


def test_it_is_short() -> None:
    assert len((EXAMPLES / "my_pass.py").read_text().splitlines()) <= 60
