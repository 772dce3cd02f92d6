"""Writes docs/coverage.md: ``python -m tests.zoo.report``."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from .cases import EXACT, SINGLE, ZooCase
from .models_audio import AUDIO
from .models_encoders import ENCODERS
from .models_handwritten import HANDWRITTEN
from .models_image import IMAGE
from .models_packed import PACKED
from .models_recent import RECENT
from .models_video import VIDEO
from .running import MESHES, run_on, subject
from .zoo import KNOWN, ZOO

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
GROUPS = {
    "Video": VIDEO,
    "Image": (*IMAGE, *PACKED, *RECENT),
    "Audio and others": AUDIO,
    "Text and image encoders": ENCODERS,
    "Written by hand": HANDWRITTEN,
}
SHORT = {"fv.all_to_all": "a2a", "fv.all_gather": "ag", "fv.reduce_scatter": "rs", "fv.all_reduce": "ar"}
HEAD = f"""\
# Coverage

Model classes that are compiled without a line of code for them, in small configurations (`tests/zoo/`), on simulated
meshes of three ranks with a pinned `sp` axis and of two with a pinned `tp` axis. Written by
`python -m tests.zoo.report`; the tests in `tests/zoo/` hold the same bounds.

- *error*: the largest `max |a − b| / max |b|` against eager, over all outputs and two inputs with other values. At most
  {EXACT:.0e} in fp64; where a part is computed in fp32, at most 1e-06 in fp64 and {SINGLE:.0e} in fp32.
- *work*: FLOPs summed over the ranks, as a multiple of eager's; at most 1.15.
- *collectives* in one run of the whole model: all-to-all (a2a), all-gather (ag), reduce-scatter (rs), all-reduce (ar).
"""


def row(case: ZooCase) -> str:
    limits = KNOWN.get(case.name, {})
    cells = [case.name, "fp32" if case.tolerance == SINGLE else "fp64", case.casts or "–"]
    for mesh in MESHES:
        limit = limits.get("capture") or limits.get(mesh)
        if limit:
            cells += ["refused", "–", limit]
            continue
        found = run_on(subject(case), mesh)
        counts = ", ".join(f"{n} {SHORT[op]}" for op, n in sorted(found.collectives.items()))
        cells += [f"{found.error:.0e}", f"{found.work_ratio:.3f}", counts]
    print(case.name, flush=True)
    return "| " + " | ".join(cells) + " |"


def numbered_row(number: int) -> str:
    """For other processes, which cannot be sent a case."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return row(ZOO[number])


def main() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        rows = dict(zip(ZOO, workers.map(numbered_row, range(len(ZOO))), strict=True))
    head = "| class | dtype | in fp32 |" + "".join(f" {mesh}: error | work | collectives |" for mesh in MESHES)
    rule = "|---|---|---|" + "--:|--:|---|" * len(MESHES)
    parts = [
        "\n".join([f"## {name}\n", head, rule, *(rows[case] for case in cases), ""]) for name, cases in GROUPS.items()
    ]
    PAGE.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
