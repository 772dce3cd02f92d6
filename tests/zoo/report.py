"""Runs the whole matrix of the zoo and writes docs/coverage.md and docs/coverage.json: ``python -m tests.zoo.report``.

Rows are kept in a file while they are made, so that a run which is broken off goes on where it stopped. Meshes that
most depends on come first. Ends with 1 where a bound does not hold that bounds.py does not except.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from fastvideo_ir.errors import FastVideoError

from .blocks import Division, floor
from .bounds import broken, expected, refusal, unwanted
from .handwritten_plans import INPUTS, RANKS, ours, theirs
from .meshes import Setting, by_model, settings
from .page import page
from .running import ZooRow, names_decide_nothing, run_on, subject
from .zoo import ZOO

ROOT = Path(__file__).parents[2]
PAGE, DATA = ROOT / "docs" / "coverage.md", ROOT / "docs" / "coverage.json"
KEPT = ROOT / "build" / "zoo-rows.jsonl"
ORDER = (
    ("sp=3", "tp=2", "sp=2 tp=2"),
    ("sp=2", "tp=3", "sp=4", "tp=4"),
    ("cfg=2 sp=2",),
    ("sp=2 ring=2", "ring=2"),
    ("sp=8", "tp=8", "sp=4 tp=2"),
)
"""Meshes in the order in which they are run; each class is captured once for all that stand together."""
SCRAMBLED = "sp=2 tp=2"
"""Where every name is replaced: the mesh on which both axes are planned."""

Row = dict[str, Any]
Task = tuple[int, int, int, tuple[str, ...]]
"""Number of a class, heads, batch, and meshes."""


def tasks(done: set[tuple[str, str]]) -> Iterator[Task]:
    """What is left to run, in order; settings that share a model and are as important go together."""
    numbered = list(enumerate(ZOO))
    plans = []
    for meshes in ORDER:
        plans.append([(number, case, [s for s in settings(case) if s.mesh in meshes]) for number, case in numbered])
    taken = set(done)
    for plan in plans:
        for number, case, wanted in plan:
            left = [setting for setting in wanted if (case.name, str(setting)) not in taken]
            taken |= {(case.name, str(setting)) for setting in left}
            for (heads, batch), chosen in by_model(left).items():
                yield number, heads, batch, tuple(setting.mesh for setting in chosen)


def rows_of(task: Task) -> list[Row]:
    """Run in another process, which cannot be sent a case."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    number, heads, batch, meshes = task
    case = ZOO[number]
    rows: list[Row] = []
    for setting in (Setting(mesh, heads, batch) for mesh in meshes):
        row: Row = {"class": case.name, "setting": str(setting)}
        text = refusal(case, setting)
        try:
            found = subject(case, heads, batch)
            started = time.perf_counter()
            result = run_on(found, setting)
            row |= _figures(setting, result) | {"seconds": round(time.perf_counter() - started, 2)}
            wrong = broken(case, setting, result) ^ expected(case, setting)
            if setting.mesh == SCRAMBLED:
                row["scrambled"] = names_decide_nothing(found, result)
                wrong |= set() if row["scrambled"] else {"names"}
            if text is not None:
                wrong.add("not refused any more")
        except FastVideoError as error:
            row["refused"] = str(error).splitlines()[0]
            wrong = set() if text is not None and str(error).startswith(text) else {"refused"}
        except Exception as error:
            row["refused"] = f"{type(error).__name__}: {error}".splitlines()[0]
            wrong = {"failed"}
        row["wrong"] = sorted(wrong)
        rows.append(row)
    return rows


def _figures(setting: Setting, row: ZooRow) -> Row:
    block = row.busiest
    division = Division.of(setting.parallel.mesh)
    return {
        "error": row.error,
        "work": round(row.work, 4),
        "attention": None if row.attention is None else round(row.attention, 4),
        "collectives": dict(row.collectives),
        "block": dict(block.collectives),
        "block_bytes": block.bytes,
        "gathers": [[g.axis, g.verdict, *g.ops] for g in row.gathers],
        "unwanted": [[g.axis, g.verdict, *g.ops] for g in unwanted(setting, row)],
        "floor_bytes": floor(block, division) if setting.parallel.tp == 1 else None,
    }


def compared() -> list[Row]:
    """What the hand-written plans of diffusers move, and ours."""
    found = []
    for name in INPUTS:
        for ranks in RANKS:
            by_hand, here = theirs(name, ranks), ours(name, ranks)
            found += [
                {"class": name, "ranks": ranks, "blocks": kind, "theirs": vars(moved), "ours": vars(here[kind])}
                for kind, moved in by_hand.items()
            ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=KEPT, help="where rows are kept; take it away to start anew")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=None, help="write what is there after so long")
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    options.rows.touch()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    context = get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as workers, options.rows.open("a") as kept:
        left = iter(list(tasks({(row["class"], row["setting"]) for row in rows})))
        running = {workers.submit(rows_of, task) for _, task in zip(range(options.workers), left, strict=False)}
        while running:
            done = next(as_completed(running))
            running.remove(done)
            for row in done.result():
                rows.append(row)
                kept.write(json.dumps(row) + "\n")
                print(row["class"], row["setting"], *row["wrong"], flush=True)
            kept.flush()
            task = next(left, None) if time.monotonic() < until else None
            if task is not None:
                running.add(workers.submit(rows_of, task))
    write(rows, compared())
    return int(any(row["wrong"] for row in rows))


def write(rows: list[Row], plans: list[Row]) -> None:
    """One row a line, so that a change of the data shows which rows it is."""
    lists = {"rows": rows, "hand_written_plans": plans}
    parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, some)) + "\n]" for name, some in lists.items()]
    DATA.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    PAGE.write_text(page(rows, plans), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
