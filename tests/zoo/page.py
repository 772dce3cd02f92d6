"""docs/coverage.md, from the rows of the report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ..e2e.measuring import MOST_ATTENTION, MOST_WORK
from .bounds import EXCEPTIONS
from .cases import CAST_INSIDE, EXACT, HALF_INSIDE, SINGLE, ZooCase
from .meshes import settings
from .zoo import GROUPS, ZOO

SHORT = {"all_to_all": "a2a", "all_gather": "ag", "reduce_scatter": "rs", "all_reduce": "ar"}
HEAD = f"""\
# Coverage

Model classes that are compiled without a line of code for them, in small configurations (`tests/zoo/`). Each is
captured, planned for simulated ranks with pinned axes, and run on three inputs that differ in values, masks and
routing. Written by `make zoo`, which runs every class in every setting; the tests in `tests/zoo/` hold the same bounds
on a part of them. `coverage.json` has the figures of every row.

- *error*: the largest `max |a − b| / max |b|` against eager, over all outputs and inputs. At most {EXACT:.0e} in
  fp64; where a part is computed in fp32 (*in fp32* says which), at most {CAST_INSIDE:.0e} in fp64 and {SINGLE:.0e} in
  fp32; where a model rounds to bf16 inside, at most {HALF_INSIDE:.0e}.
- *work*: FLOPs summed over the ranks, as a multiple of eager's; at most {MOST_WORK}.
- *attention*: FLOPs that the busiest rank spends in attention, as a multiple of an even share of eager's; at most
  {MOST_ATTENTION}. Both are counted by `torch.utils.flop_counter` around the run. `–`: no softmax attention.
- *block*: collectives in the repeated block in which most crosses, without the first of its kind: all-to-all (a2a),
  all-gather (ag), reduce-scatter (rs), all-reduce (ar). Then the bytes that a rank sends in it, as a multiple of the
  floor, where there is one.
- *floor*: what P ranks that share the tokens of an attention must send at least. Either queries, keys, values and the
  result change once between tokens and heads, of which each rank has a P-th and keeps a P-th of that:
  (P − 1) / P² of their bytes. Or keys and values go to every rank: (P − 1) / P of theirs. The smaller one counts,
  each value in the narrowest form in which the model has it, and of a joint attention only its largest stream, since
  each rank can hold the text whole. An attention over a short text, or over more rows than there are ranks, counts
  nothing. It is read from the program and no proof: less may cross where a second stream stays whole on every rank,
  or where values are cast inside the model, and the ratio is then below one.
- *token gathers*: all-gathers of half of a stream of tokens or more inside repeated blocks, after the first of its
  kind, each with what `explain()` says for it. *cheaper*: with it, the ops that read it take no longer than in the
  cheapest way to run them without. *for* an op: there is no way without, since the op reads all of it; on `tp`, matmuls
  whose weights are cut read whole tokens, and the gather is one half of the sum over the ranks. *step*: a part of a
  longer move. *dearer*: none of these, which breaks the bound for a denoiser whose ranks have two heads or more, none
  of them 15 % more than its share.
  `–`: not judged, as in rows of earlier runs, which are kept until their turn comes again.
- *renamed*: whether the program is planned in the same way when every name in it is replaced by a random word;
  checked where both `sp` and `tp` are planned.
- The number of heads is 8, and stands with the mesh where it is another: one that the ranks do not divide.
"""
PLANS = """\
## Against the hand-written plans of diffusers

Nine classes of diffusers have a context-parallel plan of their own (`_cp_plan`). Diffusers runs it on one rank of a
fake process group, and what it calls is counted per repeated block; beside it stands what our program has. A plan
needs numbers of tokens that the ranks divide, so that the inputs are others than above. Masks are left out where it
fails with them, and so is the attention between LTX2's two streams. Helios' plan names 40 blocks; those that the small
model has are taken.

| class | ranks | blocks | theirs: collectives | bytes | ours: collectives | bytes |
|---|--:|---|--:|--:|--:|--:|
"""
Row = dict[str, Any]


def page(rows: list[Row], plans: list[Row]) -> str:
    """The whole text."""
    found = {(row["class"], row["setting"]): row for row in rows}
    parts = [HEAD, _extent(found)]
    for name, cases in GROUPS.items():
        parts += [f"## {name}\n", _table(cases, found)]
    parts += [PLANS + "".join(_plan(row) for row in plans)]
    if EXCEPTIONS:
        lines = [f"- {name}, {setting}, {bound}: {reason}" for (name, setting, bound), reason in EXCEPTIONS.items()]
        parts += ["## Exceptions\n\nBounds that a class does not keep, and the op that forces it.\n", *lines, ""]
    parts += [
        "## Ops that need whole tokens\n\nFound by `explain()` in denoisers whose ranks have two heads or more.\n"
    ]
    parts += [_forced(rows)]
    wrong = [f"- {row['class']}, {row['setting']}: {', '.join(row['wrong'])}" for row in rows if row["wrong"]]
    if wrong:
        parts += ["## Not kept\n\nBounds that a row breaks, and that no exception covers.\n", *wrong, ""]
    return "\n".join(parts)


def _extent(found: dict[tuple[str, str], Row]) -> str:
    wanted = {(case.name, str(setting)) for case in ZOO for setting in settings(case)}
    ran = wanted & found.keys()
    agreed = sum("error" in found[key] for key in ran)
    left = f"; {len(wanted - ran)} of {len(wanted)} were not run" if wanted - ran else ""
    counts = f"{len(ran)} rows: {agreed} ran, {len(ran) - agreed} are refused{left}"
    return f"{len(ZOO)} classes, all of them captured; {counts}.\n"


def _table(cases: tuple[ZooCase, ...], found: dict[tuple[str, str], Row]) -> str:
    lines = [
        "| class | in fp32 | setting | error | work | attention | block | × floor | token gathers | renamed |",
        "|---|---|---|--:|--:|--:|---|--:|---|---|",
    ]
    for case in cases:
        name, casts = case.name, case.casts or "–"
        if case.dtype is torch.float32:
            casts += " (all in fp32)"
        for setting in settings(case):
            row = found.get((case.name, str(setting)))
            if row is not None:
                lines.append("| " + " | ".join([name, casts, str(setting), *_cells(row)]) + " |")
                name = casts = ""
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    if "error" not in row:
        return ["refused", "–", "–", row["refused"].replace("|", "/"), "–", "–", ""]
    attention = "–" if row["attention"] is None else f"{row['attention']:.2f}"
    counts = ", ".join(f"{number} {SHORT[op]}" for op, number in sorted(row["block"].items())) or "none"
    ratio = f"{row['block_bytes'] / row['floor_bytes']:.2f}" if row["floor_bytes"] else "–"
    gathers = _gathers(row["gathers"]) if "gathers" in row else "–"
    renamed = {True: "same", False: "other", None: ""}[row.get("scrambled")]
    return [f"{row['error']:.0e}", f"{row['work']:.3f}", attention, counts, ratio, gathers, renamed]


def _gathers(gathers: list[list[str]]) -> str:
    """E.g. ``4 cheaper, 2 for fv.linear_gelu``."""
    said = Counter(f"for {' and '.join(ops)}" if verdict == "needed" else verdict for _, verdict, *ops in gathers)
    return ", ".join(f"{number} {what}" for what, number in sorted(said.items())) or "none"


def _forced(rows: list[Row]) -> str:
    """The ops that need whole tokens, by axis, and the classes in which they do."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for axis, verdict, *ops in row.get("unwanted", ()):
            for op in ops if verdict == "needed" else ():
                found.setdefault((axis, op), set()).add(row["class"])
    lines = [f"- `{axis}`, {op}: {', '.join(sorted(names))}" for (axis, op), names in sorted(found.items())]
    return "\n".join(lines) + "\n"


def _plan(row: Row) -> str:
    theirs, ours = row["theirs"], row["ours"]
    cells = [
        row["class"],
        row["ranks"],
        row["blocks"],
        *(side[key] for side in (theirs, ours) for key in ("collectives", "bytes")),
    ]
    return "| " + " | ".join(map(str, cells)) + " |\n"
