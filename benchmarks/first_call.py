"""How long a new process takes to its first output, with empty caches and with warm ones, and what new sizes take then.

    python -m benchmarks.first_call --workload wan2.1-1.3b/480p --next wan2.1-1.3b/480p-49-frames

Seconds count from the start of the process: imports and the model's making, apart from ours, have columns of their own.
The first process finds no capture, plan, kernel choice or compiled kernel; the second finds those of the first. Both
verify what they capture, or find it verified.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def run(workload: str, following: list[str], started: float) -> dict[str, Any]:
    """One process: the first output, then those of other sizes. Seconds, by what they were spent on."""
    import torch

    import fastvideo

    from .models import WORKLOADS, build

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    imported = time.time()
    model = build(WORKLOADS[workload], dtype, device)
    random = torch.Generator(device).manual_seed(1)
    calls = {name: WORKLOADS[name].inputs(random, dtype) for name in [workload, *following]}
    made = time.time()
    row: dict[str, Any] = {"imports": imported - started, "model": made - imported}
    with fastvideo.compile(model) as compiled, torch.no_grad():
        for name, inputs in calls.items():
            before = time.time()
            compiled(**inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            row[name] = time.time() - before
            row["first output"] = row.get("first output", time.time() - started)
        row["spent on"] = [dict(program["first_call"]) for program in compiled.report.to_dict()["programs"]]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="wan2.1-1.3b/480p")
    parser.add_argument("--next", nargs="*", default=["wan2.1-1.3b/480p-49-frames", "wan2.1-1.3b/480p-short-text"])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.started:
        print(json.dumps(run(options.workload, options.next, options.started)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            "FASTVIDEO_CACHE": "1",
            "FASTVIDEO_CACHE_DIR": f"{folder}/fastvideo",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton",
        }
        for label in ("empty caches", "warm caches"):
            arguments = ["--workload", options.workload, "--next", *options.next, "--started", str(time.time())]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.first_call", *arguments],
                env=os.environ | caches,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows[label] = json.loads(done.stdout.splitlines()[-1])
            print(label)
            for what, spent in rows[label].items():
                print(f"  {what:24s}{spent:8.1f} s" if isinstance(spent, float) else f"  {what}: {spent}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"workload": options.workload, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
