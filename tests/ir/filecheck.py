"""A small FileCheck, after LLVM's: says what a text must contain, in order, and nothing about the rest.

::

    // CHECK:      %[[q:\\w+]] : {{.*}} = aten.linear.default(%x
    // CHECK-NEXT: fv.all_to_all([%[[q]]
    // CHECK-NOT:  fv.all_gather
    // CHECK:      return

``CHECK`` finds the next match anywhere after the last one, ``CHECK-NEXT`` on the line after it, ``CHECK-SAME`` further
along its line, ``CHECK-NOT`` nowhere before the following match (or the end), ``CHECK-COUNT-n`` finds n matches. A
pattern is literal but for ``{{regex}}``, ``[[name:regex]]`` (a capture) and ``[[name]]`` (its use, which matches whole
words only: ``%[[q]]`` with q = ``x`` is not ``%x_1``). A run of blanks matches any run of blanks.

The checks may stand in the checked text itself, as comments: lines without a directive are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"^\s*(?://|#)?\s*CHECK(?:-(?P<kind>[A-Z]+)(?:-(?P<count>\d+))?)?:(?P<pattern>.*)$")
_LOOKALIKE = re.compile(r"^\s*(?://|#)?\s*(C[HECK]{2,5}[-_ ]?[A-Z]*(?:[-_ ]?\d+)?)\s*:")
_PIECE = re.compile(
    r"\{\{(?P<regex>.+?)\}\}"
    r"|\[\[(?P<name>[A-Za-z_]\w*)(?::(?P<capture>(?:[^\[\]]|\[[^\]]*\])+))?\]\]"  # a capture may hold a [class]
    r"|(?P<blank>[ \t]+)"
)
_KINDS = (None, "NEXT", "SAME", "NOT", "COUNT")


class FileCheckError(AssertionError):
    """A check does not hold; the text says which, and what came nearest."""


class BadCheckError(ValueError):
    """The checks themselves are wrong."""


@dataclass(frozen=True)
class Check:
    """One directive. ``kind`` is empty for a plain ``CHECK``."""

    kind: str
    count: int
    pattern: str
    number: int

    def __str__(self) -> str:
        suffix = {"": "", "COUNT": f"-COUNT-{self.count}"}.get(self.kind, f"-{self.kind}")
        return f"CHECK{suffix}: {self.pattern} (line {self.number} of the checks)"


def parse_checks(checks: str) -> list[Check]:
    """The directives of a text.

    Raises:
        BadCheckError: there is none, or one is misspelt, empty or out of place.
    """
    found: list[Check] = []
    for number, line in enumerate(checks.splitlines(), 1):
        match = _DIRECTIVE.match(line)
        if not match:
            if lookalike := _LOOKALIKE.match(line):
                raise BadCheckError(f"line {number}: {lookalike[1]!r} is no directive; did you mean CHECK?")
            continue
        kind, count, pattern = match["kind"], match["count"], match["pattern"].strip()
        if kind not in _KINDS or (kind == "COUNT") != (count is not None):
            raise BadCheckError(
                f"line {number}: unknown directive in {line.strip()!r}; known: CHECK, CHECK-NEXT, "
                "CHECK-SAME, CHECK-NOT, CHECK-COUNT-n"
            )
        if not pattern:
            raise BadCheckError(f"line {number}: a check without a pattern")
        if count == "0":
            raise BadCheckError(f"line {number}: CHECK-COUNT-0 says nothing; use CHECK-NOT")
        if kind in ("NEXT", "SAME") and not any(check.kind != "NOT" for check in found):
            raise BadCheckError(f"line {number}: CHECK-{kind} needs a CHECK before it")
        found.append(Check(kind or "", int(count or 1), pattern, number))
    if not found:
        raise BadCheckError("the text holds no CHECK line")
    return found


def filecheck(text: str, checks: str) -> dict[str, str]:
    """Check ``text``; returns what was captured.

    Raises:
        FileCheckError: a check does not hold.
        BadCheckError: the checks themselves are wrong.
    """
    lines = [line for line in text.splitlines() if not _DIRECTIVE.match(line)]
    return _Matcher(lines).run(parse_checks(checks))


_Place = tuple[int, int]
"""Line and column, both from zero."""


class _Matcher:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._captured: dict[str, str] = {}
        self._at: _Place = (0, 0)
        self._forbidden: list[Check] = []

    def run(self, checks: list[Check]) -> dict[str, str]:
        for check in checks:
            if check.kind == "NOT":
                self._forbidden.append(check)
                continue
            for turn in range(check.count):
                self._advance(check, turn)
        self._refuse_forbidden((len(self._lines), 0))
        return self._captured

    def _advance(self, check: Check, turn: int) -> None:
        expression = compile_pattern(check, self._captured)
        line, column = self._at
        first, last = {
            "NEXT": (line + 1, line + 2),
            "SAME": (line, line + 1),
        }.get(check.kind, (line, len(self._lines)))
        for number in range(first, min(last, len(self._lines))):
            match = expression.search(self._lines[number], column if number == line else 0)
            if match:
                self._refuse_forbidden((number, match.start()))
                self._captured.update(match.groupdict())
                self._at = (number, match.end())
                return
        self._fail(check, turn, first, min(last, len(self._lines)))

    def _refuse_forbidden(self, end: _Place) -> None:
        """No pattern of a pending CHECK-NOT may occur between the last match and ``end``."""
        for check in self._forbidden:
            expression = compile_pattern(check, self._captured)
            for number in range(self._at[0], min(end[0] + 1, len(self._lines))):
                start = self._at[1] if number == self._at[0] else 0
                stop = end[1] if number == end[0] else len(self._lines[number])
                if match := expression.search(self._lines[number][:stop], start):
                    raise FileCheckError(f"{check}\n  occurs in the text:\n{self._shown(number, match.start())}")
        self._forbidden.clear()

    def _fail(self, check: Check, turn: int, first: int, last: int) -> None:
        where = {"NEXT": "on the next line", "SAME": "on the same line"}.get(check.kind, "in the rest of the text")
        times = f" ({turn} of {check.count} found)" if check.count > 1 else ""
        message = [f"{check}\n  is not found {where}{times}"]
        if self._captured:
            message.append("  with " + ", ".join(f"{name} = {value!r}" for name, value in self._captured.items()))
        if check.kind in ("NEXT", "SAME") and first < len(self._lines):
            message.append(f"  that line is:\n{self._shown(first, self._match_end(check, first))}")
        elif best := self._best(check, first, last):
            message.append(f"  the nearest line, and where it differs:\n{self._shown(*best)}")
        elsewhere = [n for n, line in enumerate(self._lines) if compile_pattern(check, self._captured).search(line)]
        if elsewhere:
            message.append(f"  it occurs elsewhere:\n{self._shown(elsewhere[0], 0)}")
        message.append("the text:\n" + "\n".join(f"{n + 1:4} | {line}" for n, line in enumerate(self._lines)))
        raise FileCheckError("\n".join(message))

    def _best(self, check: Check, first: int, last: int) -> _Place | None:
        """The line that agrees with the pattern longest, counted from its start and from its end."""
        best: tuple[int, _Place] | None = None
        total = len(_pieces(check))
        for number in range(first, last):
            column = self._at[1] if number == self._at[0] else 0
            line = self._lines[number][column:]
            ahead = _longest(total, lambda n: self._prefix(check, n).search(line) is not None)  # noqa: B023
            behind = _longest(total, lambda n: self._suffix(check, n).search(line) is not None)  # noqa: B023
            score = ahead + behind
            if ahead and (best is None or score > best[0]):
                best = (score, (number, self._match_end(check, number)))
        return best[1] if best else None

    def _match_end(self, check: Check, number: int) -> int:
        column = self._at[1] if number == self._at[0] else 0
        line = self._lines[number]
        length = _longest(len(_pieces(check)), lambda n: self._prefix(check, n).search(line, column) is not None)
        match = self._prefix(check, length).search(line, column)
        return match.end() if match and length else column

    def _prefix(self, check: Check, length: int) -> re.Pattern[str]:
        return re.compile(_expression(_pieces(check)[:length], check, self._captured, strict=False))

    def _suffix(self, check: Check, length: int) -> re.Pattern[str]:
        pieces = _pieces(check)
        return re.compile(_expression(pieces[len(pieces) - length :], check, self._captured, strict=False))

    def _shown(self, number: int, column: int) -> str:
        return f"{number + 1:4} | {self._lines[number]}\n       {' ' * column}^"


def _longest(total: int, holds: Callable[[int], bool]) -> int:
    """The largest n for which ``holds``, which is true up to some n and false beyond it."""
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


_Piece = re.Match[str] | str
"""A regex, a capture, a use or a run of blanks, or else one literal character."""


def _pieces(check: Check) -> list[_Piece]:
    pieces: list[_Piece] = []
    at = 0
    for match in _PIECE.finditer(check.pattern):
        pieces += check.pattern[at : match.start()]
        pieces.append(match)
        at = match.end()
    return [*pieces, *check.pattern[at:]]


def compile_pattern(check: Check, captured: Mapping[str, str]) -> re.Pattern[str]:
    """The regular expression of a check.

    Raises:
        BadCheckError: it uses a name that was never captured, or holds a faulty regex.
    """
    try:
        return re.compile(_expression(_pieces(check), check, captured, strict=True))
    except re.error as error:
        raise BadCheckError(f"{check}: {error}") from error


def _expression(pieces: list[_Piece], check: Check, captured: Mapping[str, str], *, strict: bool) -> str:
    here: set[str] = set()
    result = []
    for piece in pieces:
        if isinstance(piece, str):
            result.append(re.escape(piece))
        elif piece["blank"]:
            result.append(r"[ \t]+")
        elif piece["regex"]:
            result.append(f"(?:{piece['regex']})")
        elif piece["capture"]:
            result.append(f"(?P<{piece['name']}>{piece['capture']})")
            here.add(piece["name"])
        elif piece["name"] in here:
            result.append(rf"(?P={piece['name']})(?!\w)")
        elif piece["name"] in captured:
            result.append(rf"(?<!\w){re.escape(captured[piece['name']])}(?!\w)")
        elif strict:
            raise BadCheckError(f"{check}: [[{piece['name']}]] is used before it is captured")
        else:
            result.append(".+?")  # half of a pattern may lack the capture of the other half
    return "".join(result)
