"""Scripts as a user runs them, each in a process of its own; forks of one process, so that libraries load once.

    with ScriptServer("fastvideo.video_generator") as server:
        printed = server.run([script, "--an-option"], cwd)

What a script sees is what it would see by itself: its folder first on the path, its own arguments, a ``__main__``.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class ScriptServer:
    """A process that has imported ``modules`` and nothing else, and forks for every script."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def run(self, words: Sequence[object], cwd: Path) -> str:
        """What ``python *words`` prints in the folder ``cwd``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("out", "err")]
            order = {"words": [str(word) for word in words], "cwd": str(cwd), "outputs": [str(o) for o in outputs]}
            print(json.dumps(order), file=self._process.stdin, flush=True)
            status = self._process.stdout.readline()
            printed, complaints = (output.read_text() for output in outputs)
        assert status == "0\n", complaints
        return printed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def main() -> dict[str, Any] | None:
    """Serve until the other end closes. Each fork returns its script's globals, which then live as long as it does."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            return _run(order)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _run(order: dict[str, Any]) -> dict[str, Any]:
    for number, path in enumerate((os.devnull, *order["outputs"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(order["cwd"])
    sys.argv = order["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    return runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    script_globals = main()
