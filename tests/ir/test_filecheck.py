"""FileCheck finds what is there, and nothing else."""

from __future__ import annotations

import pytest

from tests.ir.filecheck import BadCheckError, FileCheckError, filecheck

TEXT = """\
program {
  %q : f32[4] = aten.linear(%x, %wq)
  %q_1 : f32[4] = aten.neg(%q)
  %k : f32[4] = aten.linear(%x, %wk)
  %o : f32[4] = aten.add(%q_1, %k)
  return (%o)
}
"""


def refusal(checks: str, text: str = TEXT) -> str:
    with pytest.raises(FileCheckError) as caught:
        filecheck(text, checks)
    return str(caught.value)


def test_checks_match_in_order() -> None:
    filecheck(TEXT, "CHECK: aten.linear\nCHECK: aten.neg\nCHECK: aten.linear\nCHECK: return")


def test_order_matters() -> None:
    message = refusal("CHECK: aten.neg\nCHECK: %wq")
    assert "CHECK: %wq (line 2 of the checks)\n  is not found in the rest of the text" in message
    assert "it occurs elsewhere:\n   2 |" in message


def test_one_line_serves_two_checks_only_left_to_right() -> None:
    filecheck(TEXT, "CHECK: aten.add\nCHECK: %q_1")
    refusal("CHECK: %q_1, %k\nCHECK: aten.add")


def test_next_accepts_the_next_line_alone() -> None:
    filecheck(TEXT, "CHECK: aten.linear\nCHECK-NEXT: aten.neg")
    message = refusal("CHECK: aten.linear\nCHECK-NEXT: aten.add")
    assert "is not found on the next line" in message
    assert "that line is:\n   3 |   %q_1 : f32[4] = aten.neg(%q)" in message


def test_next_fails_at_the_end_of_the_text() -> None:
    assert "not found on the next line" in refusal("CHECK: }\nCHECK-NEXT: {{.*}}")


def test_same_stays_on_the_line_behind_the_last_match() -> None:
    filecheck(TEXT, "CHECK: aten.add\nCHECK-SAME: %q_1\nCHECK-SAME: %k")
    refusal("CHECK: aten.add\nCHECK-SAME: return")
    refusal("CHECK: aten.add\nCHECK-SAME: %o")


def test_not_covers_the_gap_between_two_matches() -> None:
    filecheck(TEXT, "CHECK: aten.neg\nCHECK-NOT: aten.neg\nCHECK: aten.add")
    message = refusal("CHECK: aten.neg\nCHECK-NOT: aten.linear\nCHECK: aten.add")
    assert "CHECK-NOT: aten.linear (line 2 of the checks)\n  occurs in the text:\n   4 |   %k" in message


def test_not_ends_where_the_following_match_starts() -> None:
    filecheck(TEXT, "CHECK-NOT: aten.add\nCHECK: aten.linear(%x, %wk)\nCHECK: aten.add")
    filecheck(TEXT, "CHECK: aten.neg\nCHECK-NOT: %wk\nCHECK: %k")


def test_not_at_the_end_covers_the_rest() -> None:
    filecheck(TEXT, "CHECK: aten.add\nCHECK-NOT: aten.linear")
    refusal("CHECK: aten.neg\nCHECK-NOT: aten.linear")


def test_not_at_the_start_covers_the_head() -> None:
    refusal("CHECK-NOT: program\nCHECK: aten.linear")


def test_not_alone_covers_everything() -> None:
    filecheck(TEXT, "CHECK-NOT: aten.mul")
    refusal("CHECK-NOT: return")


def test_every_pending_not_is_checked() -> None:
    refusal("CHECK-NOT: aten.mul\nCHECK-NOT: aten.neg\nCHECK: return")


def test_count_finds_that_many() -> None:
    filecheck(TEXT, "CHECK-COUNT-2: aten.linear\nCHECK-NOT: aten.linear")
    assert "is not found in the rest of the text (2 of 3 found)" in refusal("CHECK-COUNT-3: aten.linear")


def test_capture_is_returned_and_used() -> None:
    captured = filecheck(TEXT, r"CHECK: %[[q:\w+]] : {{.*}} = aten.linear" "\nCHECK: aten.neg(%[[q]])")
    assert captured == {"q": "q"}


def test_use_of_a_capture_must_agree() -> None:
    message = refusal("CHECK: %[[k:k]] :\nCHECK: aten.add(%[[k]]")
    assert "with k = 'k'" in message


def test_use_of_a_capture_is_a_whole_word() -> None:
    refusal(r"CHECK: %[[q:\w+]] :" "\nCHECK: aten.add(%[[q]]")


def test_capture_is_usable_in_its_own_pattern() -> None:
    filecheck("f(%a, %b)\nf(%a, %a)", r"CHECK: f(%[[x:\w+]], %[[x]])")
    refusal(r"CHECK: f(%[[x:\w+]], %[[x]])", "f(%a, %a_1)")


def test_capture_of_the_last_match_wins() -> None:
    assert filecheck("a 1\nb 2", "CHECK: a [[n:\\d]]\nCHECK: b [[n:\\d]]") == {"n": "2"}


def test_literal_text_is_no_regex() -> None:
    refusal("CHECK: f32[4] = aten.l.near")
    filecheck("cat([[1, 2], [3]])", "CHECK: cat([[1, 2], [3]])")


def test_brackets_around_captures_and_uses_are_literal() -> None:
    checks = 'CHECK: gather([%[[x:[a-z]+]]], "sp")\nCHECK: f([%[[x]]]){sum:{{\\w+}}}'
    assert filecheck('gather([%a], "sp")\nf([%a]){sum:tp}', checks) == {"x": "a"}
    refusal(checks, 'gather([%a], "sp")\nf([%b]){sum:tp}')


def test_blanks_match_any_run_of_blanks() -> None:
    filecheck("a   b", "CHECK: a b")
    refusal("CHECK: a b", "ab")


def test_checks_may_stand_in_the_text_as_comments() -> None:
    text = "// CHECK: aten.neg\n// CHECK-NOT: aten.mul\n" + TEXT
    filecheck(text, text)
    refusal("// CHECK: aten.mul", "// CHECK: aten.mul\n" + TEXT)


def test_error_points_at_where_the_nearest_line_differs() -> None:
    message = refusal("CHECK: %k : f32[4] = aten.linear(%x, %wv)")
    line = "   4 |   %k : f32[4] = aten.linear(%x, %wk)"
    caret = " " * line.index("k)") + "^"
    assert f"the nearest line, and where it differs:\n{line}\n{caret}\n" in message


def test_error_shows_the_whole_text_with_numbers() -> None:
    assert "the text:\n   1 | program {\n   2 |   %q" in refusal("CHECK: nothing")


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("nothing here", "no CHECK line"),
        ("CHECK:", "without a pattern"),
        ("CHECK-NXET: a", "unknown directive"),
        ("CHECK-COUNT: a", "unknown directive"),
        ("CHECK-NEXT-2: a", "unknown directive"),
        ("CHECK-COUNT-0: a", "use CHECK-NOT"),
        ("CHCEK: a", "'CHCEK' is no directive"),
        ("// CHECK NEXT: a", "is no directive"),
        ("CHECK-NEXT: a", "CHECK-NEXT needs a CHECK before it"),
        ("CHECK-NOT: b\nCHECK-SAME: a", "CHECK-SAME needs a CHECK before it"),
        ("CHECK: [[never]]", r"\[\[never\]\] is used before it is captured"),
        ("CHECK: {{(}}", "unterminated"),
    ],
)
def test_wrong_checks_are_refused(checks: str, message: str) -> None:
    with pytest.raises(BadCheckError, match=message):
        filecheck("a\nb", checks)
